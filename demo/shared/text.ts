/** A token is a byte of UTF-8. */
export function encodeText(text: string): number[] {
  return [...new TextEncoder().encode(text)];
}

export function decodeText(tokens: Iterable<number>): string {
  return new TextDecoder().decode(Uint8Array.from(tokens));
}

/** Text out of tokens as they come; a character of several bytes appears with its last one. */
export async function* streamText(tokens: AsyncIterable<number>): AsyncGenerator<string, void> {
  const decoder = new TextDecoder();
  for await (const token of tokens) yield decoder.decode(Uint8Array.of(token), { stream: true });
  yield decoder.decode();
}
