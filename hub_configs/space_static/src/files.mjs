// Reads the page's own files. A page opened from a disk may not fetch its neighbours, but may run scripts beside it: so
// every file NAME lies in files/NAME.js as one call of `provideFile` with its bytes in base64. Over HTTP it is the same.

const waiting = new Map();

globalThis.provideFile = (name, base64) => {
  waiting.get(name)(Uint8Array.from(atob(base64), (character) => character.charCodeAt(0)));
  waiting.delete(name);
};

/** The bytes of a file of the page. */
export function readFile(name) {
  return new Promise((resolve, reject) => {
    waiting.set(name, resolve);
    const script = document.createElement("script");
    script.src = `files/${name}.js`;
    script.onerror = () => reject(new Error(`${name} is missing: build the page again.`));
    script.onload = () => script.remove();
    document.head.append(script);
  });
}

/** The content of a JSON file of the page. */
export async function readJson(name) {
  return JSON.parse(new TextDecoder().decode(await readFile(name)));
}
