/** Text to learn from and text kept aside, as bytes: the vocabulary is the 256 byte values. */
export interface Corpus {
  train: Uint8Array;
  heldOut: Uint8Array;
}

/** One text in so many is kept aside. */
const heldOutEvery = 20;

/**
 * Keeps every twentieth text aside: spread over the years, so that both parts are of one kind. Of fewer texts, the
 * last twentieth of all their bytes. Throws if a part is empty.
 */
export function makeCorpus(texts: readonly string[]): Corpus {
  const corpus = texts.length < heldOutEvery ? splitBytes(join(texts)) : splitTexts(texts);
  const { train, heldOut } = corpus;
  if (train.length === 0 || heldOut.length === 0) {
    throw new Error(
      `makeCorpus: the corpus is empty or too small: ${texts.length} texts give ${train.length} bytes to train on and ${heldOut.length} held out`,
    );
  }
  return corpus;
}

function splitTexts(texts: readonly string[]): Corpus {
  const isHeldOut = (_: string, i: number): boolean => i % heldOutEvery === heldOutEvery - 1;
  return {
    train: join(texts.filter((text, i) => !isHeldOut(text, i))),
    heldOut: join(texts.filter(isHeldOut)),
  };
}

function splitBytes(bytes: Uint8Array): Corpus {
  const end = bytes.length - Math.floor(bytes.length / heldOutEvery);
  return { train: bytes.subarray(0, end), heldOut: bytes.subarray(end) };
}

function join(texts: readonly string[]): Uint8Array {
  return new TextEncoder().encode(texts.join('\n\n'));
}

/** Bits per byte of a model that knows the bytes' frequencies only: what any context must beat. */
export function unigramEntropy(bytes: Uint8Array): number {
  const counts = new Float64Array(256);
  for (const byte of bytes) counts[byte]++;
  return counts.reduce(
    (bits, count) => (count ? bits - (count / bytes.length) * Math.log2(count / bytes.length) : bits),
    0,
  );
}

/** Tells corpora apart: a checkpoint belongs to one. FNV-1a. */
export function fingerprint({ train, heldOut }: Corpus): string {
  let hash = 0x811c9dc5;
  for (const part of [train, heldOut]) {
    for (const byte of part) hash = Math.imul(hash ^ byte, 0x01000193);
  }
  return `${train.length}-${heldOut.length}-${(hash >>> 0).toString(16)}`;
}
