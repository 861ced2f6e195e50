/** A checkpoint as one file. Tar, because it is a few lines and every system unpacks it. */

const block = 512;
const nameLength = 100;
const sizeOffset = 124;
const checksumOffset = 148;
const checksumLength = 8;
const typeOffset = 156;
const magicOffset = 257;

/** POSIX ustar with plain files only. */
export function writeTar(files: ReadonlyMap<string, Uint8Array<ArrayBuffer>>, time: Date): Blob {
  const parts: Uint8Array<ArrayBuffer>[] = [];
  for (const [name, content] of files) {
    parts.push(header(name, content.byteLength, time), content, new Uint8Array(padding(content.byteLength)));
  }
  parts.push(new Uint8Array(2 * block)); // the end
  return new Blob(parts, { type: 'application/x-tar' });
}

/** The files in a tar, by their names without folders. Throws if it is cut short or no tar. */
export function readTar(bytes: Uint8Array<ArrayBuffer>): Map<string, Uint8Array<ArrayBuffer>> {
  const files = new Map<string, Uint8Array<ArrayBuffer>>();
  let offset = 0;
  while (offset + block <= bytes.length && bytes[offset] !== 0) {
    const head = bytes.subarray(offset, offset + block);
    if (checksum(head) !== octal(head, checksumOffset, checksumLength)) {
      throw new Error(`the archive is corrupt or not a tar file: bad header at byte ${offset}`);
    }
    const name = text(head.subarray(0, nameLength));
    const size = octal(head, sizeOffset, 12);
    const start = offset + block;
    if (start + size > bytes.length) throw new Error(`the archive is cut short: ${name} is incomplete`);
    const isFile = head[typeOffset] === 0 || head[typeOffset] === '0'.charCodeAt(0);
    if (isFile) files.set(name.slice(name.lastIndexOf('/') + 1), bytes.slice(start, start + size));
    offset = start + size + padding(size);
  }
  if (files.size === 0) throw new Error('the archive holds no files');
  return files;
}

function header(name: string, size: number, time: Date): Uint8Array<ArrayBuffer> {
  const head = new Uint8Array(block);
  const put = (offset: number, value: string): void => head.set(new TextEncoder().encode(value), offset);
  const putOctal = (offset: number, length: number, value: number): void =>
    put(offset, value.toString(8).padStart(length - 1, '0'));
  put(0, name);
  putOctal(nameLength, 8, 0o644); // mode
  putOctal(108, 8, 0); // owner
  putOctal(116, 8, 0); // group
  putOctal(sizeOffset, 12, size);
  putOctal(136, 12, Math.floor(time.getTime() / 1000));
  put(typeOffset, '0');
  put(magicOffset, 'ustar\x0000');
  put(checksumOffset, `${checksum(head).toString(8).padStart(6, '0')}\0 `);
  return head;
}

/** Sum of a header's bytes, its own field read as blanks. */
function checksum(head: Uint8Array): number {
  const isOwn = (i: number): boolean => i >= checksumOffset && i < checksumOffset + checksumLength;
  return head.reduce((sum, byte, i) => sum + (isOwn(i) ? 32 : byte), 0);
}

function padding(size: number): number {
  return (block - (size % block)) % block;
}

function octal(head: Uint8Array, offset: number, length: number): number {
  return Number.parseInt(text(head.subarray(offset, offset + length)).trim(), 8);
}

function text(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  return new TextDecoder().decode(end < 0 ? bytes : bytes.subarray(0, end));
}
