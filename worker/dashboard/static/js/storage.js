// What this browser keeps for the page. Where storage is forbidden, nothing is kept, and nothing fails.

/** A text that was kept, or null. */
export function kept(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

/** Keeps a text; null removes it. */
export function keep(name, text) {
  try {
    if (text === null) localStorage.removeItem(name);
    else localStorage.setItem(name, text);
  } catch {
    // It then lasts as long as the page.
  }
}
