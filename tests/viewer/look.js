// What a reader could stumble over in the page that is open: names, alternatives, contrast, width, what jumps.
() => {
  const named = (it) => it.getAttribute("aria-label") || it.textContent.trim() || it.title || it.labels?.length
    || [...it.querySelectorAll("img")].some((image) => image.alt);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ink = (text) => {
    const numbers = text.match(/[\d.]+/g).map(Number);
    return text.startsWith("color(srgb") ? numbers.map((v, at) => (at < 3 ? 255 * v : v)) : numbers;
  };
  const ground = (it) => {
    for (; it; it = it.parentElement) {
      const colour = ink(getComputedStyle(it).backgroundColor);
      if ((colour[3] ?? 1) > 0.9) return colour;
    }
    return [255, 255, 255];
  };
  const pale = new Set();
  const elsewhere = "svg, .window, .tile, option, [hidden]"; // on pictures, or drawn by the browser
  for (const it of document.querySelectorAll("main *, header *, footer *")) {
    const own = [...it.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !it.checkVisibility({ checkOpacity: true }) || it.closest(elsewhere)) continue;
    const [a, b] = [light(ink(getComputedStyle(it).color)), light(ground(it))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) pale.add(`${it.tagName}.${it.className} ${ratio.toFixed(2)} ${it.textContent.slice(0, 30)}`);
  }
  return {
    wide: document.documentElement.scrollWidth - innerWidth,
    nameless: [...document.querySelectorAll("a, button, input, select, canvas")]
      .filter((it) => it.checkVisibility() && !named(it)).map((it) => it.outerHTML.slice(0, 150)),
    altless: [...document.images].filter((it) => !it.hasAttribute("alt")).length,
    headings: document.querySelectorAll("h1").length, pale: [...pale], shifted: globalThis.shifted,
    title: document.title, scripts: document.scripts.length,
  };
}
