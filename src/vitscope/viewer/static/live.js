// What needs the model behind the atlas: looking at a dropped picture, and dreaming. Only served pages have it.

const home = document.body.dataset.root;  // links are told from the home page on

// The events of an answer, one by one: "event: NAME", "data: JSON", an empty line.
async function* eventsOf(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const [, name, data] = part.match(/^event: (.*)\ndata: (.*)$/);
      yield { name, facts: JSON.parse(data) };
    }
  }
}

// One piece of work at a time on a page: `hear` is told every event; what is refused or lost is told as "failed".
const ask = async (url, { body, signal, hear }) => {
  try {
    const answer = await fetch(url, { method: "POST", body, signal });
    if (!answer.ok) throw new Error((await answer.json()).error);
    for await (const { name, facts } of eventsOf(answer)) await hear[name]?.(facts);
  } catch (error) {
    if (error.name === "AbortError") hear.stopped?.();
    else hear.failed({ message: error.message });
  }
};

const element = (name, attributes = {}, ...children) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
};

const short = (value) => (value === null ? "–" : Number(value.toPrecision(3)).toString().replace("-", "−"));

const waiting = (say) => ({
  waiting: ({ before }) => say(before ? `waiting: ${before} before this` : "starting"),
  loading: ({ model }) => say(`loading ${model}`),
  failed: ({ message }) => say(message, true),
});

const speaker = (place) => (text, bad = false) => {
  place.textContent = text;
  place.classList.toggle("bad", bad);
};

// Dreaming of the unit of this page.
const dreaming = (panel) => {
  const part = (name) => panel.querySelector(`[data-${name}]`);
  const [picture, bar, begin, stop, keep] = ["picture", "bar", "begin", "stop", "keep"].map(part);
  const say = speaker(part("said"));
  let work = null, number = null;
  const busy = (isBusy) => { begin.hidden = isBusy; stop.hidden = !isBusy; keep.hidden = isBusy || number === null; };

  begin.addEventListener("click", async () => {
    if (begin.hidden) return; // by its key, while a dream is forming
    work = new AbortController();
    number = null;
    part("stage").hidden = false;
    busy(true);
    const query = new URLSearchParams({ recipe: part("recipe").value, seed: part("seed").value });
    await ask(`${panel.dataset.dream}?${query}`, {
      signal: work.signal,
      hear: {
        ...waiting(say),
        planned: ({ steps, seconds }) => { bar.max = steps; bar.value = 0; say(`${steps} steps, about ${Math.ceil(seconds)} s`); },
        step: (facts) => {
          picture.src = facts.image;
          bar.value = facts.step;
          say(`step ${facts.step} of ${facts.steps}: score ${short(facts.score)}`);
        },
        done: (facts) => {
          picture.src = facts.image;
          bar.value = bar.max;
          number = facts.number;
          say(`done: score ${short(facts.score)}, robust ${short(facts.trust.robust)}, ${facts.trust.status}`);
        },
        stopped: () => say(`stopped at step ${bar.value}; what is not finished cannot be kept`),
      },
    });
    busy(false);
  });
  stop.addEventListener("click", () => work.abort());
  keep.addEventListener("click", async () => {
    const answer = await fetch(`${panel.dataset.keepAt}/${number}`, { method: "POST" });
    const facts = await answer.json();
    say(answer.ok ? `kept: ${facts.path}` : facts.error, !answer.ok);
    keep.hidden = answer.ok;
  });
};

// What a dropped picture excites, site by site.
const looking = (panel) => {
  const found = panel.querySelector("[data-found]");
  const input = panel.querySelector("input");
  const say = speaker(panel.querySelector("[data-said]"));
  let work = null;

  const framed = (picture, alt, heat) => element("div", { class: "frame" }, element("img", { src: picture, alt }),
    ...(heat ? [element("img", { src: heat, alt: "", class: "heat" })] : []));
  const tile = (unit) => element("span", { class: "window" }, element("img",
    { class: `c${unit.column} r${unit.row}`, src: home + unit.sprite, alt: `what ${unit.address} is like`, width: 1024, height: 1024 }));
  const card = (unit, picture) => element("li", {}, element("a", { href: home + unit.link },
    framed(picture, `where ${unit.address} fires`, unit.heat), tile(unit),
    element("span", { class: "facts" }, element("b", {}, unit.address.split(":").pop()),
      `${Math.floor(10 * unit.percentile) / 10} %`, ` ${short(unit.value)} @${unit.place}`)));

  const show = ({ picture, guesses, notes, sites }) => {
    const answer = guesses.map(({ name, probability }) => `${name} ${(100 * probability).toFixed(0)} %`).join(", ");
    const rows = sites.map(({ name, link, units }) => element("section", {},
      element("h3", {}, element("a", { href: home + link }, name)),
      element("ul", { class: "fired" }, ...units.map((unit) => card(unit, picture)))));
    const seen = element("figure", { class: "seen" }, framed(picture, "What the model was shown"),
      element("figcaption", {}, ...[answer && `The model says: ${answer}.`, ...notes].filter(Boolean).map((text) => element("p", {}, text))));
    found.replaceChildren(seen, ...rows);
    say(`${sites.length} site${sites.length === 1 ? "" : "s"}; the percentage is the share of the atlas's images in which the unit reaches less`);
  };

  const look = async (file) => {
    work?.abort();
    work = new AbortController();
    say(`sending ${file.name}`);
    panel.classList.add("busy");
    const { signal } = work;
    await ask(panel.dataset.look, { body: file, signal, hear: { ...waiting(say), seen: show } });
    if (!signal.aborted) panel.classList.remove("busy");
  };
  input.addEventListener("change", () => input.files[0] && look(input.files[0]));
  const over = (isOver) => (event) => { event.preventDefault(); panel.classList.toggle("over", isOver); };
  panel.addEventListener("dragover", over(true));
  panel.addEventListener("dragleave", over(false));
  panel.addEventListener("drop", (event) => {
    over(false)(event);
    const [file] = event.dataTransfer.files;
    if (file) look(file);
  });
};

for (const panel of document.querySelectorAll("[data-dream]")) dreaming(panel);
for (const panel of document.querySelectorAll("[data-look]")) looking(panel);
