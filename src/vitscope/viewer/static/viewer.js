// What the pages gain from scripts: keys, the heat maps' opacity, copying an address. All of them read well without.

const root = document.documentElement;
root.classList.add("js");

const remembered = (name, fallback) => {
  try { return localStorage.getItem(`vitscope.${name}`) ?? fallback; } catch { return fallback; }
};
const remember = (name, value) => {
  try { localStorage.setItem(`vitscope.${name}`, value); } catch { /* a private window: forget it */ }
};

// Heat maps: on or off, and how opaque. Both outlive the page, so that walking from unit to unit keeps them.
const heat = document.querySelector("[data-heat]");
const opacity = document.querySelector("[data-opacity]");
const showHeat = () => {
  root.classList.toggle("no-heat", !heat.checked);
  root.style.setProperty("--heat", opacity.value / 100);
  remember("heat", heat.checked);
  remember("opacity", opacity.value);
};
if (heat && opacity) {
  heat.checked = remembered("heat", "true") === "true";
  opacity.value = remembered("opacity", opacity.value);
  heat.addEventListener("change", showHeat);
  opacity.addEventListener("input", showHeat);
  showHeat();
}

// Copying needs a secure context, which loopback is; elsewhere the text is selected for the reader to copy.
for (const button of document.querySelectorAll("[data-copy]")) {
  const words = button.textContent;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
      button.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(document.querySelector("h1"));
      button.textContent = "selected";
    }
    setTimeout(() => { button.textContent = words; }, 1500);
  });
}

const help = document.querySelector("#help");
document.querySelector("[data-help]")?.addEventListener("click", () => help.showModal());

// In the grid the arrows walk over the tiles, once one has the focus.
const walk = (key) => {
  const here = document.activeElement.closest?.(".tiles > li");
  if (!here) return false;
  const columns = getComputedStyle(here.parentElement).gridTemplateColumns.split(" ").length;
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[key];
  const tiles = [...here.parentElement.children];
  const next = tiles[tiles.indexOf(here) + step];
  if (step && next) next.querySelector("a").focus();
  return Boolean(step);
};

// Every link, button or field may name the keys that stand for it.
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
  if (event.target.matches("input:not([type=checkbox]), textarea, select")) return;
  if (walk(event.key)) { event.preventDefault(); return; }
  if (event.key === "h" && heat) { heat.checked = !heat.checked; showHeat(); return; }
  const target = [...document.querySelectorAll("[data-keys]")].find((it) => it.dataset.keys.split(" ").includes(event.key));
  if (!target) return;
  event.preventDefault();
  if (target.matches("input")) target.focus(); else target.click();
});
