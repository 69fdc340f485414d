"""Measures the text of a page as it is drawn: fonts may differ between machines, what people can read may not."""

from __future__ import annotations

from typing import Any

from selenium.webdriver import Chrome

from tests.browser.page import prefer, resize, screenshot

# Texts as boxes, one a line, without what is scrolled away. A box counts with the middle half of its height: lines
# stand closer than their fonts are tall. What is cut sideways is told, but where it can be scrolled to: code, groups.
_MEASURE = """
const [LEAST] = arguments;
const found = [];
const boxes = [];
const words = (node) => node.data.trim().replace(/\\s+/g, " ").slice(0, 40);

function rgba(text) {
  const parts = text.match(/[\\d.e-]+/g).map(Number);
  const scale = text.startsWith("color(") ? 255 : 1;
  return [...parts.slice(0, 3).map((part) => part * scale), parts[3] ?? 1];
}
const over = ([r, g, b, a], under) => [r, g, b].map((part, i) => part * a + under[i] * (1 - a));
const luminance = (colour) => {
  const linear = (part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
  const [r, g, b] = colour.map((part) => linear(part / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
function ground(element) {
  const layers = [];
  for (let each = element; each; each = each.parentElement) {
    layers.unshift(rgba(getComputedStyle(each).backgroundColor));
  }
  return layers.reduce((under, layer) => over(layer, under), [255, 255, 255]);
}
function contrast(element) {
  const style = getComputedStyle(element);
  const under = ground(element);
  const ink = rgba(element instanceof SVGElement ? style.fill : style.color);
  const [a, b] = [luminance(over(ink, under)), luminance(under)];
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}

const within = (a, b) => ({
  left: Math.max(a.left, b.left), right: Math.min(a.right, b.right),
  top: Math.max(a.top, b.top), bottom: Math.min(a.bottom, b.bottom),
});
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let node = walker.nextNode(); node; node = walker.nextNode()) {
  const element = node.parentElement;
  if (!node.data.trim() || element.closest("option, script, style, title, noscript, .skip")) continue;
  if (!element.checkVisibility({ visibilityProperty: true, opacityProperty: true })) continue;
  let window = { left: -1e9, right: 1e9, top: -1e9, bottom: 1e9 };
  let unheard = false;
  let scrolls = false;
  for (let each = element; each && each !== document.body; each = each.parentElement) {
    const style = getComputedStyle(each);
    if (style.clipPath !== "none") unheard = true;
    if (style.overflowX === "visible" || each instanceof SVGElement) continue;
    const box = each.getBoundingClientRect();
    if (style.overflowX === "auto" && each.matches(".code, .group-scroll")) scrolls = true;
    window = within(window, box);
  }
  if (unheard) continue;
  const range = document.createRange();
  range.selectNodeContents(node);
  let seen = false;
  for (const rect of range.getClientRects()) {
    const [top, bottom] = [rect.top + rect.height / 4, rect.bottom - rect.height / 4];
    if (top < window.top || bottom > window.bottom || rect.width < 1) continue;
    seen = true;
    const cut = rect.left < window.left - 1 || rect.right > window.right + 1;
    if (cut && !scrolls) found.push(["cut", words(node)]);
    const box = { ...within(window, { left: rect.left, right: rect.right, top, bottom }), node };
    if (box.left < -1 || box.right > document.documentElement.clientWidth + 1) found.push(["outside", words(node)]);
    boxes.push(box);
  }
  if (!seen || element.closest(":disabled, [aria-disabled]")) continue;
  const ratio = contrast(element);
  if (ratio < LEAST) found.push(["contrast", words(node), Math.round(ratio * 100) / 100]);
}
boxes.sort((a, b) => a.top - b.top);
boxes.forEach((box, place) => {
  for (let next = place + 1; next < boxes.length && boxes[next].top < box.bottom - 1; next += 1) {
    const other = boxes[next];
    if (other.node !== box.node && Math.min(box.right, other.right) - Math.max(box.left, other.left) > 1.5) {
      found.push(["overlap", words(box.node), words(other.node)]);
    }
  }
});
const root = document.documentElement;
if (root.scrollWidth > root.clientWidth) found.push(["scroll", root.scrollWidth, root.clientWidth]);
return found;
"""
_SETTLED = """
const done = arguments[0];
const ended = () => {
  const ends = (each) => each.playState === "running" && each.effect.getTiming().iterations !== Infinity;
  const moving = document.getAnimations().filter(ends);
  if (moving.length || document.querySelector(".changing")) setTimeout(ended, 15);
  else requestAnimationFrame(() => done(true));
};
requestAnimationFrame(ended);
"""
LEAST_CONTRAST = 4.5
WIDTHS = (390, 768, 1440)
SCHEMES = ("dark", "light")  # the last is that of the pictures
NAMED = {"button", "link", "combobox", "textbox", "checkbox", "listbox", "option", "image", "img"}


def settled(browser: Chrome) -> None:
    """Waits until colours and places no longer move."""
    browser.execute_async_script(_SETTLED)  # type: ignore[no-untyped-call]


def trouble(browser: Chrome) -> list[tuple[Any, ...]]:
    """What is wrong with the texts in view: (`overlap`, `outside`, `cut`, `contrast` or `scroll`, which, …)."""
    found = browser.execute_script(_MEASURE, LEAST_CONTRAST)  # type: ignore[no-untyped-call]
    return [tuple(each) for each in found]


def unreadable(browser: Chrome, name: str) -> list[Any]:
    """What is wrong with the view at each width, light and dark; each width's picture is `name`-WIDTH.png."""
    found: list[Any] = []
    for width in WIDTHS:
        resize(browser, width)
        for scheme in SCHEMES:
            prefer(browser, scheme)
            settled(browser)
            found += [(name, width, scheme, *each) for each in trouble(browser)]
            assert _is_dark(browser) == (scheme == "dark")
        screenshot(browser, f"{name}-{width}")
    return found + [(name, "nameless", each) for each in nameless(browser)]


def _is_dark(browser: Chrome) -> bool:
    body = "return getComputedStyle(document.body).backgroundColor"
    background: str = browser.execute_script(body)  # type: ignore[no-untyped-call]
    return sum(int(part) for part in background.split("(")[1].strip(")").split(",")[:3]) < 3 * 128


def nameless(browser: Chrome) -> list[Any]:
    """What a screen reader would announce as a control or picture without a name."""
    browser.execute_cdp_cmd("Accessibility.enable", {})
    nodes = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    return [
        node
        for node in nodes
        if not node.get("ignored")
        and node.get("role", {}).get("value") in NAMED
        and not node.get("name", {}).get("value", "").strip()
    ]
