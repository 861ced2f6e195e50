/** Reads ELF, the format of shared libraries on Linux: where a library looks for those that it opens. */
import { closeSync, openSync, readSync } from 'node:fs';
import { dirname } from 'node:path';

interface Segment {
  type: number;
  offset: number;
  address: number;
  bytes: number;
}

const elf64 = 0x7f454c4602; // the first five bytes: the magic number and the class
const segmentTypes = { load: 1, dynamic: 2 };
const tags = { strings: 5, runPath: 29 };
/** Several times what the libraries of TensorFlow have: 20 kB. */
const mostTextBytes = 2 ** 18;

/** The folders of DT_RUNPATH; none where `file` has none, or is no 64-bit library. */
export function runPath(file: string): string[] {
  const handle = openSync(file, 'r');
  try {
    const folders = textOf(handle, tags.runPath).split(':').filter(Boolean);
    return [...new Set(folders)].map((folder) => folder.replace('$ORIGIN', dirname(file)));
  } finally {
    closeSync(handle);
  }
}

/** The text that an entry of the dynamic section points to; empty where there is no such entry. */
function textOf(handle: number, tag: number): string {
  const segments = readSegments(handle);
  const dynamic = segments.find(({ type }) => type === segmentTypes.dynamic);
  if (!dynamic) return '';
  const entries = read(handle, dynamic.offset, dynamic.bytes);
  const values = new Map<number, number>();
  for (let at = 0; at + 16 <= entries.length; at += 16) values.set(word(entries, at), word(entries, at + 8));
  const [strings, position] = [values.get(tags.strings), values.get(tag)];
  if (strings === undefined || position === undefined) return '';
  const text = read(handle, fileOffset(segments, strings) + position, mostTextBytes);
  return text.toString('utf8', 0, Math.max(0, text.indexOf(0)));
}

function readSegments(handle: number): Segment[] {
  const header = read(handle, 0, 64);
  if (header.length < 64 || header.readUIntBE(0, 5) !== elf64) return [];
  const [start, size, count] = [word(header, 32), header.readUInt16LE(54), header.readUInt16LE(56)];
  return Array.from({ length: count }, (_, index) => {
    const entry = read(handle, start + index * size, size);
    const type = entry.readUInt32LE(0);
    return { type, offset: word(entry, 8), address: word(entry, 16), bytes: word(entry, 32) };
  });
}

/** Where in the file lies what is loaded to this address. */
function fileOffset(segments: Segment[], address: number): number {
  const around = segments.find(
    (each) =>
      each.type === segmentTypes.load && address >= each.address && address < each.address + each.bytes,
  );
  return around ? address - around.address + around.offset : address;
}

function word(bytes: Buffer, at: number): number {
  return Number(bytes.readBigUInt64LE(at));
}

function read(handle: number, offset: number, size: number): Buffer {
  const bytes = Buffer.alloc(size);
  return bytes.subarray(0, readSync(handle, bytes, 0, size, offset));
}
