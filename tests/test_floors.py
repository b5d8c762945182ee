"""Architecture as a test: every file stands on one floor and imports only from lower floors."""

import ast
from collections.abc import Iterator
from pathlib import Path

import vitscope

SOURCE = Path(vitscope.__file__).parent
FLOORS = [  # bottom first; every file exactly once; a floor may have storeys
    # 0 ground
    {"errors", "arrays", "front", "heat"},
    # 1 words
    {"address", "registry", "provenance", "extras", "draws", "pages", "notebook"},
    # 2 protocols
    {"models.vision_model", "data.source", "engine.engine"},
    {"meters.reading"},
    {"meters.meter", "meters.board", "meters.share", "meters.ranking", "meters.grams", "house"},
    {"meters.readouts", "meters.ridge"},
    {"meters.gathering", "meters.nearest_mean"},
    # 3 instruments, and first what they are made of
    {"models.substitute"},
    {
        "tap",
        "models.bundled",
        "models.checkpoints",
        "models.incoming",
        "models.image_processors",
        "data.listing",
        "data.foregrounds",
        "data.derived",
        "atlas.manifest",
        "atlas.leaf",
        "atlas.commit",
    },
    {"models.layout", "atlas.unit"},
    {"models.layout_step", "models.arrange"},
    {"models.layout_products"},
    {"models.layout_rules"},
    {"trace"},
    {"models.streams"},
    {"models.attention", "models.claims"},
    {"models.attention_sites", "models.listed"},
    {"models.blocks"},
    {"models.transformer_sites", "models.stages"},
    {"models.stacks"},
    {"models.residual_sites"},
    {"models.sites"},
    {
        "models.from_timm",
        "models.from_torchvision",
        "models.from_open_clip",
        "models.from_transformers",
        "models.from_module",
        "models.from_bundled",
    },
    {"data.decode", "data.folder", "data.tar", "data.demo", "data.annotations", "data.drawn", "data.shots"},
    {"data.stream", "data.objects"},
    {"dream.numbers", "dream.regions", "dream.pictures", "dream.rolls"},
    {
        "interventions.boxes",
        "interventions.filters",
        "interventions.movements",
        "interventions.resolution",
    },
    {"interventions.patches"},
    {"interventions.images"},
    {"interventions"},
    {"dream.readouts"},
    {"dream.canvases", "dream.objectives", "dream.augment", "lean"},
    {"dream.penalties", "dream.heads", "dream.likeness", "dream.diversity", "tune", "meters.attention"},
    {"meters.grouping"},
    {
        "meters.accuracy",
        "meters.clusters",
        "meters.hsic",
        "meters.spatial",
        "meters.coverage",
        "meters.localisation",
        "meters.unit_means",
        "meters.token_accuracy",
        "meters.topk",
        "meters.moments",
        "meters.attention_distance",
        "meters.head_grams",
        "meters.predictions",
        "meters.probe_sums",
        "meters.readout_accuracy",
        "meters.skips",
        "engine.local",
        "progress",
        "plots",
        "spots",
        "tables",
        "viewer.guard",
        "viewer.pictures",
        "viewer.likeness",
        "viewer.turns",
    },
    {
        "meters.typical",
        "dream.accentuation",
        "dream.formula",
        "dream.recipe",
        "dream.result",
        "dream.path",
        "dream.scoring",
        "dream.trust",
    },
    # 4 loops
    {"interventions.beginnings", "interventions.trunk", "flow"},
    {"views"},
    {"interventions.model", "interventions.positions", "interventions.salience", "interventions.units"},
    {"interventions.depths", "interventions.readouts"},
    {"dream.ascent"},
    {"dream.judge", "dream.plan"},
    {"parts"},
    {"passes"},
    {
        "dream.natural",
        "dream.optimize",
        "scan",
        "variants",
        "atlas.store",
        "atlas.rows",
        "atlas.thumbnails",
    },
    {"dream.second", "studies.result"},
    {
        "studies.study",
        "studies.last_layer_published",
        "studies.foreground_published",
        "studies.invariance_published",
        "studies.clusters_published",
        "studies.depth",
    },
    {"studies.last_layer_figures", "studies.scanner"},
    {
        "studies.answers",
        "studies.appearance",
        "studies.classifiers",
        "studies.effects",
        "studies.embedded",
        "studies.fields",
        "studies.shortcuts",
        "studies.taxonomy",
        "studies.view_levels",
    },
    {"studies.probed"},
    {
        "studies.class_means",
        "studies.concepts_judge",
        "studies.exemplars",
        "studies.matching",
        "studies.sites_drawn",
        "studies.views_drawn",
        "studies.views_dropped",
        "studies.occlusion_drawn",
    },
    {"studies.concepts_units", "studies.faithfulness", "studies.views_measured", "studies.views_pictured"},
    # 5 work
    {"atlas.tasks", "atlas.compare", "atlas.sample"},
    {"dream.recipes", "atlas.work", "atlas.read", "atlas.verify"},
    {"atlas.building"},
    {
        "studies.attention_distance",
        "studies.clusters",
        "studies.concepts",
        "studies.drift",
        "studies.foreground",
        "studies.frequency",
        "studies.invariance",
        "studies.last_layer",
        "studies.localisation",
        "studies.heads",
        "studies.occlusion",
        "studies.overview",
        "studies.probe",
        "studies.readout",
        "studies.receptive_field",
        "studies.shuffle",
        "studies.skip_removal",
        "studies.skips",
        "studies.similarity",
        "studies.spatial_cka",
        "studies.views",
    },
    # 6 shelves
    {"viewer.facts", "viewer.kept", "viewer.sheets"},
    {"models", "data", "dream", "meters", "engine", "viewer.shelf"},
    {"studies.dreamt"},  # by recipes that are asked for by name
    {"studies.matched_dreams", "studies.progression", "studies.sites_compared"},
    {"atlas.door", "studies"},
    {"atlas"},
    {"look.glance", "look.sheets"},
    {"look.units"},
    {"look.found"},
    {"look.page"},
    {"look.result"},
    {"look", "report", "summary"},
    {"compare"},
    # 7 doors, and first what testing is made of
    {"testing.doubles", "testing.sources", "testing.selection", "testing.witness"},
    {"testing.witness_attention"},
    {"testing.values", "testing.attention", "testing.passes"},
    {"testing.contracts"},
    {"viewer.charts", "viewer.results"},
    {"viewer.library"},
    {
        "viewer",
        "viewer.behind",
        "viewer.image_page",
        "viewer.pages",
        "viewer.study_page",
        "viewer.told",
        "viewer.unit_page",
        "testing",
        "doctor",
    },
    {"viewer.files", "viewer.live"},
    {"viewer.export"},
    {"viewer.app"},
    {"commands", "commands.console"},
    {"commands.looking", "commands.dreams", "commands.atlases", "commands.studies"},
    {"cli"},
    {"", "__main__"},
]
FLOOR = {module: height for height, modules in enumerate(FLOORS) for module in modules}
MAY_ASSERT = {  # contracts are tests
    f"testing.{name}" for name in ("contracts", "values", "attention", "passes", "sources")
}
JUNK_DRAWERS = {"utils", "helpers", "common", "misc"}


def name_of(path: Path) -> str:
    parts = list(path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """The modules of ours that a file imports, those inside functions included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vitscope":
            base = (node.module or "").removeprefix("vitscope").lstrip(".")
            for alias in node.names:
                full = f"{base}.{alias.name}".lstrip(".")
                yield node.lineno, full if full in FLOOR else base
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "vitscope":
                    yield node.lineno, alias.name.removeprefix("vitscope").lstrip(".")


def upward_imports(files: list[Path]) -> list[str]:
    return [
        f"{path}:{line}: {name_of(path)!r} may not import {other!r}"
        for path in files
        for line, other in imports_of(path)
        if FLOOR.get(other, 99) >= FLOOR.get(name_of(path), -1)
    ]


def test_every_file_stands_on_one_floor():
    files = {name_of(path) for path in SOURCE.rglob("*.py")}
    assert files - set(FLOOR) == set(), "files on no floor: add them to FLOORS"
    assert set(FLOOR) - files == set(), "FLOORS names files that do not exist"
    assert sum(map(len, FLOORS)) == len(FLOOR), "a file stands on two floors"


def test_every_import_points_down():
    wrong = upward_imports(sorted(SOURCE.rglob("*.py")))
    assert not wrong, "\n".join(wrong)


def test_an_upward_import_inside_a_function_is_found(tmp_path, monkeypatch):
    culprit = tmp_path / "tap.py"
    culprit.write_text("def sly():\n    from vitscope.scan import scan\n    return scan\n")
    monkeypatch.setattr(f"{__name__}.SOURCE", tmp_path)
    assert upward_imports([culprit]) == [f"{culprit}:2: 'tap' may not import 'scan'"]


def test_there_is_no_junk_drawer():
    assert {path.stem for path in SOURCE.rglob("*.py")} & JUNK_DRAWERS == set()


def test_only_the_tap_the_trace_and_the_witness_touch_hooks():
    touching = {path.name for path in SOURCE.rglob("*.py") if "register_forward" in path.read_text()}
    assert touching == {"tap.py", "trace.py", "witness.py"}


def test_nobody_above_the_instruments_asks_for_a_family():
    words = ("VisionTransformer", "ResNet", "import timm", "import torchvision", ".permute(")
    adapters = FLOOR["models.from_timm"]
    above = [path for path in SOURCE.rglob("*.py") if FLOOR[name_of(path)] > adapters]
    above.remove(SOURCE / "doctor.py")  # it asks whether torchvision is installed, not what a model is
    wrong = [f"{path}: {word}" for path in above for word in words if word in path.read_text()]
    assert wrong == []


def test_files_and_functions_stay_small():
    for path in SOURCE.rglob("*.py"):
        text = path.read_text()
        assert text.count("\n") <= 400, f"{path} has more than 400 lines"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = (node.end_lineno or 0) - node.body[0].lineno + 1
                assert lines <= 60, f"{path}: {node.name} has {lines} lines"


def test_only_the_command_line_prints_and_nobody_asserts():
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            prints = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
            assert not (prints and path.name != "cli.py"), f"{path}:{node.lineno}: print"
            asserts = isinstance(node, ast.Assert)
            assert not (asserts and name_of(path) not in MAY_ASSERT), f"{path}:{node.lineno}: assert"
