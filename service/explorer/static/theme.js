// Light and dark: as the system has it, until the switch is used.

const NAME = "upweight-theme";
const ORDER = ["system", "light", "dark"];
const SIGNS = { system: "◐ Auto", light: "☀ Light", dark: "☾ Dark" };

export function startTheme(button) {
  show(button, localStorage.getItem(NAME) ?? "system");
  button.addEventListener("click", () => {
    const now = localStorage.getItem(NAME) ?? "system";
    const next = ORDER[(ORDER.indexOf(now) + 1) % ORDER.length];
    localStorage.setItem(NAME, next);
    show(button, next);
    tell();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", tell);
}

function show(button, theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  button.textContent = SIGNS[theme];
  button.setAttribute("aria-label", `Colours: ${theme}. Change.`);
}

function tell() {
  document.dispatchEvent(new Event("themechange"));
}

/** A colour of the present theme, as [red, green, blue]; for drawing on canvas. */
export function colour(variable) {
  const probe = document.createElement("span");
  probe.style.color = `var(${variable})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color.match(/[\d.]+/g).slice(0, 3).map(Number);
  probe.remove();
  return found;
}
