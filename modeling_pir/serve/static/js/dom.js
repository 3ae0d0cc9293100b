// Small helpers to build the page. Text goes in as text, never as HTML: names of files are what others chose.

export const byId = (id) => document.getElementById(id);

export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export function fill(parent, ...children) {
  parent.replaceChildren(...children.filter((child) => child !== null && child !== undefined));
}

export const fileName = (path) => path.split("/").pop() || path;

export const thousands = (number) => number.toLocaleString("en");

export const plural = (number, one, many = `${one}s`) => `${thousands(number)} ${number === 1 ? one : many}`;
