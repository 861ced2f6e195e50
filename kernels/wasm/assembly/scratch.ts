/** A thread's own memory, cut up anew for every kernel. Globals belong to one thread: each has an instance of its own. */
let next: usize = 0;

/** Begins to cut at this address. From 0 it only counts: what is taken then is not to be touched. */
export function beginScratch(address: usize): void {
  next = address;
}

export function takeBytes(bytes: usize): usize {
  const taken = next;
  next += (bytes + 15) & ~15;
  return taken;
}

export function takeFloats(count: i32): usize {
  return takeBytes((count as usize) << 2);
}

/** Where the next piece would begin. */
export function endOfScratch(): usize {
  return next;
}
