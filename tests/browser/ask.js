// Runs in a frame around the report: what the page in it shows, how wide, how legible. The answer goes into <pre>.
const frame = document.querySelector("iframe");

const parts = (colour) => (colour.match(/[\d.]+/g) || [0, 0, 0, 0]).map(Number);

// WCAG 2.2, relative luminance
const luminance = (colour) => {
  const [r, g, b] = parts(colour).map((c) => (c / 255 <= 0.03928 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};

const contrast = (one, other) => {
  const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (light + 0.05) / (dark + 0.05);
};

function shown() {
  const doc = frame.contentDocument, win = frame.contentWindow;
  const all = [...doc.body.querySelectorAll("*")].filter((node) => node.getBoundingClientRect().width && node.checkVisibility());
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const colour = win.getComputedStyle(node).backgroundColor;
      if (parts(colour)[3] !== 0) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const named = (node) => `${node.tagName}.${node.className.baseVal ?? node.className}`;
  const texts = all.filter((node) => [...node.childNodes].some((own) => own.nodeType === 3 && own.data.trim()));
  const ratios = texts.map((node) => {
    const style = win.getComputedStyle(node);
    return [contrast(node.closest("svg") ? style.fill : style.color, behind(node)), named(node)];
  });
  const titled = (svg) =>
    svg.ariaLabel || (svg.getAttribute("aria-labelledby") || "").split(" ").every((id) => doc.getElementById(id)?.textContent.trim());
  return {
    inner: win.innerWidth,
    wide: doc.documentElement.scrollWidth,
    over: all.filter((node) => node.getBoundingClientRect().right > win.innerWidth + 1 && !node.closest(".scroll")).map(named),
    cut: [...doc.querySelectorAll(".scroll")].filter((box) => box.scrollWidth > box.clientWidth + 1).map((box) => box.ariaLabel),
    texts: texts.length,
    faint: ratios.filter(([ratio]) => ratio < 4.5).map(([ratio, name]) => `${name} ${ratio.toFixed(2)}`),
    background: win.getComputedStyle(doc.body).backgroundColor,
    text: doc.body.innerText,
    loaded: win.performance.getEntriesByType("resource").map((one) => one.name),
    heads: [...doc.querySelectorAll("h1, h2, h3, h4")].map((head) => Number(head.tagName[1])),
    drawings: [...doc.querySelectorAll("svg")].map((svg) => [svg.getAttribute("role"), Boolean(titled(svg))]),
    ids: [...doc.querySelectorAll("[id]")].map((node) => node.id),
    lang: doc.documentElement.lang,
  };
}

frame.addEventListener("load", () => {
  document.querySelector("pre").textContent = JSON.stringify(shown());
});
frame.srcdoc = page;
