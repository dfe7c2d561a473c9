// The words of the page's language, which the server put into it.

const given = JSON.parse(document.getElementById("words").textContent);
export const language = document.documentElement.lang || "en";
const local = (navigator.languages || []).find((tag) => tag.split("-")[0] === language) || language;
const plural = new Intl.PluralRules(language);

/** The text of a key; `n` chooses the plural form, every value fills its {place}. */
export function t(key, values = {}) {
  let text = given[key.replaceAll(" ", "-")];
  if (text === undefined) return key;
  if (typeof text === "object") text = text[plural.select(values.n)] ?? text.other;
  return text.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

const spans = [["second", 60], ["minute", 60], ["hour", 24], ["day", 365], ["year", Infinity]];
const relative = new Intl.RelativeTimeFormat(local, { numeric: "auto" });

/** How long ago Unix seconds are, in words. */
export function ago(at) {
  let left = Math.max(0, Date.now() / 1000 - at);
  for (const [unit, most] of spans) {
    if (left < most) return relative.format(-Math.floor(left), unit);
    left /= most;
  }
  return "";
}

/** Writes each <time data-at> of the page as a time of this language, and how long ago it was. */
export function tellTimes(root = document) {
  const format = new Intl.DateTimeFormat(local, { dateStyle: "medium", timeStyle: "short" });
  for (const element of root.querySelectorAll("time[data-at]")) {
    const at = Number(element.dataset.at);
    element.textContent = element.dataset.as === "ago" ? ago(at) : format.format(at * 1000);
    element.title = format.format(at * 1000);
  }
}
