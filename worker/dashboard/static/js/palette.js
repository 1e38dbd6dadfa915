// The colour of a label: one of eight, the same on every page. The label's name always stands beside it.

const COLOURS = 8;

/** A number from 0 to 7 by FNV-1a, 32 bits (http://www.isthe.com/chongo/tech/comp/fnv). */
export function colourOf(label) {
  let hash = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(label)) {
    hash = Math.imul(hash ^ byte, 0x01000193) >>> 0;
  }
  return (hash >>> 3) % COLOURS; // Person and Car, and others of the default model, differ
}
