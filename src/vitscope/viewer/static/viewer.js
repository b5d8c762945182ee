// What the pages gain from a script: keys, states in the address, sorting, the map, side by side. All read well without.
// The same on a server and in an export: it only ever asks for files that lie beside the page.

const root = document.documentElement;
const $ = (selector, within = document) => within.querySelector(selector);
const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];
const home = document.body.dataset.root;

const make = (name, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
};

// The state of a page is in its address. What outlives the page is remembered too; the address wins.
const remembered = (name) => { try { return localStorage.getItem(`vitscope.${name}`); } catch { return null; } };
const remember = (name, value) => { try { localStorage.setItem(`vitscope.${name}`, value); } catch { /* a private window */ } };
const asked = () => new URLSearchParams(location.search);
const tell = (changes, { keep = false } = {}) => {
  const query = asked();
  for (const [name, value] of Object.entries(changes)) value === "" || value == null ? query.delete(name) : query.set(name, value);
  const text = query.toString();
  const address = location.pathname + (text ? `?${text}` : "") + location.hash;
  if (address !== location.pathname + location.search + location.hash) history[keep ? "pushState" : "replaceState"](null, "", address);
  for (const link of $$("[data-carry]")) link.search = carried(text);
};
const carried = (text) => {
  const query = new URLSearchParams(text);
  for (const name of [...query.keys()]) if (!["by", "heat", "opacity", "crop"].includes(name)) query.delete(name);
  return query.toString();
};

// A unit: its two rankings, heat maps and their opacity, exemplars whole or cropped around what responds.
const setting = (name, usual) => asked().get(name) ?? remembered(name) ?? usual;
const dress = () => {
  for (const block of $$(".exemplars")) {
    const kinds = $$("[data-ranking]", block), chosen = kinds.find((kind) => kind.dataset.ranking === asked().get("by"));
    for (const kind of kinds) kind.classList.toggle("chosen", kind === chosen);
    block.classList.toggle("choosing", Boolean(chosen) && chosen !== kinds[0]);
  }
  const heat = setting("heat", "1") !== "0", opacity = setting("opacity", "85"), crop = asked().get("crop") === "1";
  root.classList.toggle("no-heat", !heat);
  root.classList.toggle("crop", crop);
  root.style.setProperty("--heat", Math.min(100, Math.max(0, Number(opacity) || 0)) / 100);
  for (const box of $$("[data-heat]")) box.checked = heat;
  for (const box of $$("[data-crop]")) box.checked = crop;
  for (const slider of $$("[data-opacity]")) slider.value = opacity;
  for (const frame of $$("[data-at]")) place(frame);
};
const place = (frame) => {
  const [row, column, rows, columns] = frame.dataset.at.split(" ").map(Number);
  const times = Math.max(1, Math.min(rows, columns) / 3.5);  // about three and a half patches across
  const shift = (at, of) => Math.min(0, Math.max(1 / times - 1, 0.5 / times - (at + 0.5) / of));
  frame.style.setProperty("--times", times);
  frame.style.setProperty("--left", `${100 * shift(column, columns)}%`);
  frame.style.setProperty("--up", `${100 * shift(row, rows)}%`);
};
document.addEventListener("input", ({ target }) => {
  const changes = {};
  if (target.matches("[data-heat]")) changes.heat = target.checked ? "1" : "0";
  else if (target.matches("[data-opacity]")) changes.opacity = target.value;
  else if (target.matches("[data-crop]")) changes.crop = target.checked ? "1" : "";
  else return;
  for (const [name, value] of Object.entries(changes)) if (name !== "crop") remember(name, value);
  tell(changes);
  dress();
});
document.addEventListener("click", (event) => {
  const tab = event.target.closest?.("[data-by]");
  if (!tab) return;
  event.preventDefault();
  tell({ by: tab.dataset.by === "max" ? "" : tab.dataset.by });
  dress();
});

// Copying needs a secure context, which loopback is; elsewhere the text is selected for the reader to copy.
document.addEventListener("click", async ({ target }) => {
  const button = target.closest?.("[data-copy], [data-copy-link]");
  if (!button) return;
  const words = button.dataset.words ??= button.textContent;
  const link = location.href;
  const text = button.dataset.copy === undefined ? link : button.dataset.copy + ("cite" in button.dataset ? ` ${link}` : "");
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "copied";
  } catch {
    getSelection().selectAllChildren($("h1"));
    button.textContent = "selected";
  }
  setTimeout(() => { button.textContent = words; }, 1500);
});

// From a typed address, or from none, to a unit: the sites and their sizes are in the page.
const sites = $$("#sites option").map((option) => [option.value, Number(option.dataset.units)]);
const unitPage = (atlas, site, unit) => `${home}a/${encodeURIComponent(atlas)}/unit/${site}/${unit}.html`;
const jump = $(".jump");
jump?.addEventListener("input", () => jump.address.setCustomValidity(""));
jump?.addEventListener("submit", (event) => {
  event.preventDefault();
  const [, name, unit] = /^([\w.~]+)(?::(\d+))?(?:@.*)?$/.exec(jump.address.value.trim()) ?? [];
  const found = sites.find(([site]) => site === name);
  const reason = !found ? "There is no such site here; the list shows what there is."
    : unit && Number(unit) >= found[1] ? `${name} has the units 0 to ${found[1] - 1}.` : "";
  jump.address.setCustomValidity(reason);
  if (reason) { jump.reportValidity(); return; }
  const atlas = document.body.dataset.atlas;
  location.href = unit === undefined ? `${home}a/${encodeURIComponent(atlas)}/site/${name}/1.html` : unitPage(atlas, name, Number(unit));
});
$("[data-random]")?.addEventListener("click", (event) => {
  event.preventDefault();
  const [site, units] = sites[Math.floor(Math.random() * sites.length)];
  location.href = unitPage(document.body.dataset.atlas, site, Math.floor(Math.random() * units));
});

// A tile looks through its own window at the sprite of its 256 units.
const windowOf = (unit, { sprites, version }, alt = `unit ${unit}`) => make("span", { className: "window" }, make("img", {
  className: `c${unit % 16} r${Math.floor((unit % 256) / 16)}`, alt, width: 1024, height: 1024, loading: "lazy", decoding: "async",
  src: `${sprites}${Math.floor(unit / 256) + 1}.webp?v=${version}`,
}));

// The grid, sorted and filtered over all units of the site: its numbers are one file, asked for when they are needed.
const sorting = $(".sorting");
const tiles = $(".tiles");
if (sorting && tiles) {
  const sent = [...tiles.children], order = $$("nav.pages"), dreams = $(".site-dreams"), output = $("output", sorting);
  let numbers;
  const load = async () => {
    numbers ??= fetch(sorting.dataset.columns).then((answer) => { if (!answer.ok) throw new Error(answer.status); return answer.json(); });
    return numbers;
  };
  const options = (select, names) => { for (const name of names) if (![...select.options].some((it) => it.value === name)) select.append(new Option(name, name)); };
  const fill = (all) => {
    options(sorting.class, all.classes.filter((_, at) => all.class.includes(at)).sort());
    const labels = [...new Set(Object.values(all.labels).flat())].sort();
    options(sorting.label, labels);
    $(".labels", sorting).classList.toggle("none", labels.length === 0);
  };
  const chosen = (all, { sort, status, class: name, label }) => {
    const units = [...all.status.keys()].filter((unit) =>
      (!status || (status === "dreamt" ? all.dreams[unit] > 0 : all.status[unit] === status))
      && (!name || all.classes[all.class[unit]] === name) && (!label || all.labels[unit]?.includes(label)));
    if (!sort || !Array.isArray(all[sort])) return units;
    const known = units.filter((unit) => all[sort][unit] !== null), value = all[sort];
    return known.sort((a, b) => value[b] - value[a] || a - b);
  };
  const tile = (all, sort) => (unit) => {
    const status = all.status[unit], number = sort && all[sort][unit];
    const link = make("a", { className: `tile ${status === "ok" ? "ok" : status === "dead" ? "dead" : "odd"}`, href: `${tiles.dataset.units}${unit}.html` },
      windowOf(unit, tiles.dataset), make("span", { className: "n" }, number == null ? `${unit}` : `${unit} · ${number.toPrecision(3)}`));
    return make("li", { id: `u${unit}` }, link);
  };
  const pager = (count, page, query) => {
    const to = (number, words, keys) => {
      const link = make("a", { href: `?${new URLSearchParams({ ...query, page: number })}`, textContent: words });
      if (keys) link.dataset.keys = keys;
      if (words === `${page}`) { link.className = "here"; link.ariaCurrent = "page"; }
      link.addEventListener("click", (event) => { event.preventDefault(); tell({ page: number }, { keep: true }); arrange(); scrollTo(0, 0); });
      return link;
    };
    const near = [...Array(count).keys()].map((at) => at + 1).filter((at) => at === 1 || at === count || Math.abs(at - page) < 4);
    return [...(page > 1 ? [to(page - 1, "‹ previous", "k ArrowLeft")] : []), ...near.map((at) => to(at, `${at}`)),
      ...(page < count ? [to(page + 1, "next ›", "j ArrowRight")] : [])];
  };
  const asSent = order.map((nav) => [...nav.children]);
  const arrange = async () => {
    const query = Object.fromEntries(["sort", "status", "class", "label"].map((name) => [name, asked().get(name) ?? ""]).filter(([, value]) => value));
    const plain = Object.keys(query).length === 0;
    dreams?.toggleAttribute("hidden", !plain);
    if (plain) {
      tiles.replaceChildren(...sent);
      order.forEach((nav, at) => nav.replaceChildren(...asSent[at]));
      output.textContent = "";
      for (const name of ["sort", "status", "class", "label"]) sorting[name].value = "";
      return;
    }
    output.textContent = "loading …";
    let all;
    try { all = await load(); } catch (error) {
      numbers = undefined;
      output.textContent = `The numbers of this site could not be loaded (${error.message}); the grid is in its usual order.`;
      return;
    }
    fill(all);
    for (const name of ["sort", "status", "class", "label"]) sorting[name].value = query[name] ?? "";
    const units = chosen(all, query), count = Math.max(1, Math.ceil(units.length / 256));
    const page = Math.min(count, Math.max(1, Math.trunc(Number(asked().get("page"))) || 1));
    tiles.replaceChildren(...units.slice((page - 1) * 256, page * 256).map(tile(all, query.sort)));
    order.forEach((nav) => nav.replaceChildren(...(count > 1 ? pager(count, page, query) : [])));
    output.textContent = units.length ? `${units.length.toLocaleString("en")} of ${all.units.toLocaleString("en")} units` : "No unit is like that.";
    dispatchEvent(new Event("arranged"));
  };
  sorting.addEventListener("change", ({ target }) => { tell({ [target.name]: target.value, page: "" }, { keep: true }); arrange(); });
  sorting.addEventListener("pointerenter", () => load().then(fill).catch(() => { numbers = undefined; }), { once: true });
  sorting.addEventListener("focusin", () => load().then(fill).catch(() => { numbers = undefined; }), { once: true });
  sorting.addEventListener("submit", (event) => event.preventDefault());
  addEventListener("popstate", arrange);
  arrange();
}

// What an image excites: the image that is looked at alone, its units as pictures.
const picture = () => {
  const seen = $$(".depicted").find((section) => section.id === location.hash.slice(1));
  $(".pictured")?.classList.toggle("one", Boolean(seen));
  for (const section of $$(".depicted")) section.classList.toggle("chosen", section === seen);
  for (const cell of seen ? $$("td[data-sprites]", seen) : []) {
    for (const chip of $$(".chip:not(:has(.window))", cell)) chip.prepend(windowOf(Number(chip.textContent), cell.dataset));
  }
};
addEventListener("hashchange", picture);
picture();
root.classList.add("js");

// The map: a canvas over the sprites of a site. Its middle and zoom are in the address, a unit to look at behind its #.
const canvas = $(".map canvas");
if (canvas) {
  const { dataset } = canvas, order = dataset.order.split(",").map(Number), wide = Number(dataset.wide);
  const tall = Math.ceil(order.length / wide), context = canvas.getContext("2d"), output = $(".map output"), sprites = new Map();
  const view = { x: wide / 2, y: tall / 2, z: 0 };
  const whole = () => Math.min(canvas.clientWidth / wide, canvas.clientHeight / tall) * 0.98;
  const marked = () => Number(/^#u?(\d+)$/.exec(location.hash)?.[1] ?? NaN);
  let waiting = false, noted;
  const sprite = (leaf) => {
    if (!sprites.has(leaf)) {
      const image = make("img", { src: `${dataset.sprites}${leaf + 1}.webp?v=${dataset.version}` });
      image.addEventListener("load", draw);
      sprites.set(leaf, image);
    }
    return sprites.get(leaf);
  };
  const draw = () => { if (!waiting) { waiting = true; requestAnimationFrame(paint); } };
  const paint = () => {
    waiting = false;
    const ratio = devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight, size = view.z;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) { canvas.width = width * ratio; canvas.height = height * ratio; }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    const left = width / 2 - view.x * size, top = height / 2 - view.y * size, gap = size > 24 ? 2 : 0;
    order.forEach((unit, at) => {
      const x = left + (at % wide) * size, y = top + Math.floor(at / wide) * size;
      if (x > width || y > height || x + size < 0 || y + size < 0) return;
      const image = sprite(unit >> 8);
      if (image.complete && image.naturalWidth) context.drawImage(image, (unit % 16) * 64, ((unit & 255) >> 4) * 64, 64, 64, x, y, size - gap, size - gap);
      if (unit === marked()) { context.lineWidth = 3; context.strokeStyle = getComputedStyle(root).getPropertyValue("--accent"); context.strokeRect(x, y, size - gap, size - gap); }
    });
  };
  const move = (changes) => {
    Object.assign(view, changes);
    view.z = Math.min(160, Math.max(whole() * 0.8, view.z));
    view.x = Math.min(wide, Math.max(0, view.x));
    view.y = Math.min(tall, Math.max(0, view.y));
    draw();
    clearTimeout(noted);
    noted = setTimeout(() => tell({ x: view.x.toFixed(1), y: view.y.toFixed(1), z: view.z.toFixed(1) }), 200);
  };
  const start = () => {
    const query = asked(), at = order.indexOf(marked());
    const number = (name, usual) => (query.get(name) !== null && Number.isFinite(Number(query.get(name))) ? Number(query.get(name)) : usual);
    const middle = at < 0 ? { x: wide / 2, y: tall / 2, z: whole() } : { x: (at % wide) + 0.5, y: Math.floor(at / wide) + 0.5, z: 96 };
    Object.assign(view, { x: number("x", middle.x), y: number("y", middle.y), z: number("z", middle.z) });
    view.z = Math.min(160, Math.max(whole() * 0.8, view.z));
    draw();
  };
  const unitAt = (offsetX, offsetY) => {
    const column = Math.floor((offsetX - canvas.clientWidth / 2) / view.z + view.x), row = Math.floor((offsetY - canvas.clientHeight / 2) / view.z + view.y);
    return column < 0 || column >= wide || row < 0 ? undefined : order[row * wide + column];
  };
  const zoom = (times, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) => {
    const size = Math.min(160, Math.max(whole() * 0.8, view.z * times)), dx = x - canvas.clientWidth / 2, dy = y - canvas.clientHeight / 2;
    move({ x: view.x + dx / view.z - dx / size, y: view.y + dy / view.z - dy / size, z: size });
  };
  const open = (unit) => { if (unit !== undefined) location.href = `${dataset.units}${unit}.html`; };
  const fingers = new Map();
  let dragged = 0;
  canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); fingers.set(event.pointerId, event); if (fingers.size === 1) dragged = 0; });
  canvas.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) { const unit = unitAt(event.offsetX, event.offsetY); output.textContent = unit === undefined ? "" : `unit ${unit}`; return; }
    const others = [...fingers.values()].filter((it) => it !== before);
    if (others.length) {
      const far = (it) => Math.hypot(it.clientX - others[0].clientX, it.clientY - others[0].clientY) || 1;
      zoom(far(event) / far(before), event.offsetX, event.offsetY);
    } else move({ x: view.x - (event.clientX - before.clientX) / view.z, y: view.y - (event.clientY - before.clientY) / view.z });
    dragged += Math.abs(event.clientX - before.clientX) + Math.abs(event.clientY - before.clientY);
    fingers.set(event.pointerId, event);
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, (event) => {
    fingers.delete(event.pointerId);
    if (end === "pointerup" && dragged < 6) open(unitAt(event.offsetX, event.offsetY));
  });
  canvas.addEventListener("wheel", (event) => { event.preventDefault(); zoom(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY); }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const step = 0.15 * canvas.clientHeight / view.z;
    const moves = { ArrowLeft: { x: view.x - step }, ArrowRight: { x: view.x + step }, ArrowUp: { y: view.y - step }, ArrowDown: { y: view.y + step } };
    if (moves[event.key]) move(moves[event.key]);
    else if (event.key === "+" || event.key === "=") zoom(1.25);
    else if (event.key === "-") zoom(0.8);
    else if (event.key === "Enter") open(unitAt(canvas.clientWidth / 2, canvas.clientHeight / 2));
    else return;
    event.preventDefault();
    event.stopPropagation();
    const unit = unitAt(canvas.clientWidth / 2, canvas.clientHeight / 2);
    output.textContent = unit === undefined ? "" : `unit ${unit} in the middle`;
  });
  for (const button of $$("[data-zoom]")) button.addEventListener("click", () => zoom(Number(button.dataset.zoom)));
  $("[data-whole]").addEventListener("click", () => move({ x: wide / 2, y: tall / 2, z: whole() }));
  for (const change of ["hashchange", "popstate"]) addEventListener(change, start);
  new ResizeObserver(draw).observe(canvas);
  start();
}

// Side by side: each page is fetched and put into a column, its addresses made whole; heat, ranking and crop hold for all.
const pageOf = (text) => {
  const [, atlas, site, unit] = /^([^/]+)(?:\/([\w.~]+)(?::(\d+))?)?$/.exec(text.trim()) ?? [];
  if (!atlas) return null;
  const folder = `${home}a/${encodeURIComponent(atlas)}`;
  if (unit !== undefined) return `${folder}/unit/${site}/${Number(unit)}.html`;
  return site === undefined ? `${folder}/index.html` : `${folder}/site/${site}/1.html`;
};
const column = async (text) => {
  const address = pageOf(text), article = make("article", { ariaLabel: text });
  try {
    const answer = address && await fetch(address);
    if (!answer?.ok) throw new Error(`There is nothing at ${text}.`);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const name of ["src", "href", "data-units", "data-sprites", "data-columns"]) {
      for (const element of $$(`[${name}]`, page)) {
        const value = element.getAttribute(name);
        if (!value.startsWith("#") && !value.startsWith("data:")) element.setAttribute(name, new URL(value, answer.url).href);
      }
    }
    for (const element of $$("[id]", page)) element.removeAttribute("id");
    for (const element of $$("[data-keys]:not([data-by])", page)) element.removeAttribute("data-keys");
    const title = $("h1", page);
    if (title) title.replaceChildren(make("a", { href: address }, ...title.childNodes));
    article.append(...$("main", page).children);
  } catch (error) {
    article.append(make("p", { className: "note bad" }, error.message));
  }
  return article;
};
const comparing = $("[data-comparing]");
if (comparing) {
  const beside = $("[data-beside]"), fields = $$("input[name=of]", comparing), output = $("output", comparing);
  const show = async () => {
    const texts = asked().getAll("of").filter(Boolean).slice(0, 4);
    fields.forEach((field, at) => { field.value = texts[at] ?? ""; });
    beside.style.setProperty("--sides", Math.max(2, texts.length));
    output.textContent = texts.length ? "loading …" : "";
    beside.replaceChildren(...await Promise.all(texts.map(column)));
    output.textContent = texts.length === 1 ? "Name another one to put beside it." : "";
    dress();
  };
  comparing.addEventListener("submit", (event) => {
    event.preventDefault();
    const query = new URLSearchParams(fields.map((field) => ["of", field.value.trim()]).filter(([, text]) => text));
    history.pushState(null, "", `${location.pathname}?${query}`);
    show();
  });
  addEventListener("popstate", show);
  show();
}

// Tables of numbers sort by a click on the head of a column, each group of rows for itself.
for (const table of $$("[data-sortable]")) {
  $$("thead th", table).forEach((head, at) => {
    const button = make("button", { type: "button" }, ...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.ariaSort !== "descending";
      for (const other of $$("thead th", table)) other.ariaSort = "none";
      head.ariaSort = down ? "descending" : "ascending";
      const value = (row) => row.cells[at]?.textContent ?? "";
      for (const body of table.tBodies) {
        const rows = [...body.rows].filter((row) => !row.classList.contains("group"));
        rows.sort((a, b) => (parseFloat(value(a)) - parseFloat(value(b)) || value(a).localeCompare(value(b), "en", { numeric: true })) * (down ? -1 : 1));
        body.append(...rows);
      }
    });
  });
}

// Figures tell the value that is pointed at, or that the arrow keys have come to.
for (const drawn of $$("[data-spots]")) {
  const { cells, points } = JSON.parse(drawn.dataset.spots), output = $("output", drawn.parentElement), ring = make("span", { className: "spot", hidden: true });
  const all = [...points.map(([x, y, text]) => ({ x, y, text })), ...cells.flatMap(({ box: [x, y, w, h], names, rows, told, values }) => rows.flatMap((row, i) => names.map((name, j) => ({
    x: x + ((j + 0.5) * w) / names.length, y: y + ((i + 0.5) * h) / rows.length, w: w / names.length, h: h / rows.length,
    text: `${told && `${told} · `}${row} × ${name}: ${values[i][j]}`,
  }))))];
  let here;
  const show = (spot) => {
    here = spot;
    ring.hidden = !spot;
    output.textContent = spot?.text ?? "";
    if (!spot) return;
    const share = (value) => `${100 * value}%`, { x, y, w, h } = spot;
    ring.classList.toggle("round", !w);
    Object.assign(ring.style, w ? { left: share(x - w / 2), top: share(y - h / 2), width: share(w), height: share(h) } : { left: share(x), top: share(y), width: "", height: "" });
  };
  const nearest = (x, y, reach) => {
    const { width, height } = drawn.getBoundingClientRect();
    const far = (it) => (it.w && Math.abs(it.x - x) <= it.w / 2 && Math.abs(it.y - y) <= it.h / 2 ? 0 : it.w ? Infinity : Math.hypot((it.x - x) * width, (it.y - y) * height));
    const best = all.reduce((one, other) => (far(other) < far(one) ? other : one));
    return far(best) <= reach ? best : undefined;
  };
  const onwards = (dx, dy) => {
    const ahead = all.filter((it) => it !== here && ((it.x - here.x) * dx + (it.y - here.y) * dy) > 1e-6);
    const cost = (it) => { const along = (it.x - here.x) * dx + (it.y - here.y) * dy, aside = Math.abs((it.x - here.x) * dy) + Math.abs((it.y - here.y) * dx); return along + 3 * aside; };
    return ahead.length ? ahead.reduce((one, other) => (cost(other) < cost(one) ? other : one)) : here;
  };
  drawn.append(ring);
  drawn.tabIndex = 0;
  drawn.addEventListener("pointermove", ({ clientX, clientY }) => {
    const { left, top, width, height } = drawn.getBoundingClientRect();
    show(nearest((clientX - left) / width, (clientY - top) / height, 24));
  });
  drawn.addEventListener("pointerleave", () => show());
  drawn.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!step) { if (event.key === "Escape") show(); return; }
    event.preventDefault();
    event.stopPropagation();
    show(here ? onwards(...step) : all[0]);
  });
}

dress();
tell({});
addEventListener("popstate", dress);

const help = $("#help");
$("[data-help]")?.addEventListener("click", () => help.showModal());

// In the grid the arrows walk over the tiles, once one has the focus.
const walk = (key) => {
  const here = document.activeElement.closest?.(".tiles > li");
  if (!here) return false;
  const columns = getComputedStyle(here.parentElement).gridTemplateColumns.split(" ").length;
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[key];
  const all = [...here.parentElement.children];
  const next = all[all.indexOf(here) + step];
  if (step && next) $("a", next).focus();
  return Boolean(step);
};

// Every link, button or field that is shown may name the keys that stand for it.
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
  if (event.target.matches("input:not([type=checkbox]), textarea, select")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (walk(event.key)) { event.preventDefault(); return; }
  const keys = event.key === "h" ? $$("[data-heat]") : $$("[data-keys]").filter((it) => it.dataset.keys.split(" ").includes(event.key));
  const target = keys.find((it) => it.checkVisibility?.() ?? true);
  if (!target) return;
  event.preventDefault();
  if (target.matches("input:not([type=checkbox])")) target.focus(); else target.click();
});
