import { fail, shapeText } from '../core/errors.js';
import { float16Value } from '../core/float16.js';

/*
 * The safetensors format (https://github.com/huggingface/safetensors, "Format"): eight bytes with the header's size,
 * little-endian; the header, JSON of { name: { dtype, shape, data_offsets } }; the tensors' bytes, without gaps.
 */

const bytesPerElement = { F64: 8, I64: 8, F32: 4, I32: 4, F16: 2, BF16: 2, U8: 1 };

export type SafetensorsDtype = keyof typeof bytesPerElement;

export interface StoredTensor {
  dtype: SafetensorsDtype;
  shape: number[];
  /** Little-endian, row by row. */
  bytes: Uint8Array;
}

export interface SafetensorsFile {
  tensors: Map<string, StoredTensor>;
  metadata: Record<string, string>;
}

/** The format's own limit. */
const maxHeaderBytes = 100_000_000;

/** Reads a whole file. Throws, with the file's name, if it is truncated or corrupt in any way. */
export function readSafetensors(buffer: ArrayBuffer, fileName = 'safetensors'): SafetensorsFile {
  const { header, dataStart } = readHeader(buffer, fileName);
  const { __metadata__: metadata = {}, ...entries } = header;
  const tensors = new Map<string, StoredTensor>();
  const spans: { name: string; begin: number; end: number }[] = [];
  for (const [name, entry] of Object.entries(entries)) {
    const { dtype, shape, begin, end } = checkEntry(fileName, name, entry);
    if (dataStart + end > buffer.byteLength) {
      fail(fileName, `truncated: ${name} ends at byte ${dataStart + end}, the file has ${buffer.byteLength}`);
    }
    tensors.set(name, { dtype, shape, bytes: new Uint8Array(buffer, dataStart + begin, end - begin) });
    spans.push({ name, begin, end });
  }
  checkNoGaps(fileName, spans, buffer.byteLength - dataStart);
  return { tensors, metadata: metadata as Record<string, string> };
}

/** A whole file. Tensors are laid out by element size, then by name, so that every one is aligned. */
export function writeSafetensors(
  tensors: ReadonlyMap<string, StoredTensor>,
  metadata: Record<string, string> = { format: 'pt' },
): Uint8Array<ArrayBuffer> {
  const entries = [...tensors].sort(
    ([nameA, a], [nameB, b]) =>
      bytesPerElement[b.dtype] - bytesPerElement[a.dtype] || (nameA < nameB ? -1 : 1),
  );
  const header: Record<string, unknown> = { __metadata__: metadata };
  let dataBytes = 0;
  for (const [name, { dtype, shape, bytes }] of entries) {
    checkSize('writeSafetensors', name, dtype, shape, bytes.byteLength);
    header[name] = { dtype, shape, data_offsets: [dataBytes, dataBytes + bytes.byteLength] };
    dataBytes += bytes.byteLength;
  }
  const text = new TextEncoder().encode(JSON.stringify(header));
  const headerBytes = Math.ceil(text.byteLength / 8) * 8;
  const file = new Uint8Array(8 + headerBytes + dataBytes).fill(0x20, 8, 8 + headerBytes);
  new DataView(file.buffer).setBigUint64(0, BigInt(headerBytes), true);
  file.set(text, 8);
  let offset = 8 + headerBytes;
  for (const [, { bytes }] of entries) {
    file.set(bytes, offset);
    offset += bytes.byteLength;
  }
  return file;
}

/** float32 values as a tensor to store. */
export function storeFloat32(values: Float32Array, shape: number[]): StoredTensor {
  return { dtype: 'F32', shape, bytes: new Uint8Array(values.buffer, values.byteOffset, values.byteLength) };
}

/** The values of a tensor of any dtype, as float32 (rounded from F64, I64 and I32 where they do not fit). */
export function float32Values({ dtype, bytes }: StoredTensor): Float32Array {
  // a tensor may start anywhere in its file, a typed array may not
  const { buffer } = bytes.slice();
  switch (dtype) {
    case 'F32':
      return new Float32Array(buffer);
    case 'F64':
      return Float32Array.from(new Float64Array(buffer));
    case 'BF16':
      return new Float32Array(Uint32Array.from(new Uint16Array(buffer), (bits) => bits << 16).buffer);
    case 'F16':
      return Float32Array.from(new Uint16Array(buffer), float16Value);
    case 'I64':
      return Float32Array.from(new BigInt64Array(buffer), Number);
    case 'I32':
      return Float32Array.from(new Int32Array(buffer));
    case 'U8':
      return Float32Array.from(new Uint8Array(buffer));
  }
}

function readHeader(
  buffer: ArrayBuffer,
  fileName: string,
): { header: Record<string, unknown>; dataStart: number } {
  if (buffer.byteLength < 8) fail(fileName, `truncated: ${buffer.byteLength} bytes are no safetensors file`);
  const headerBytes = Number(new DataView(buffer).getBigUint64(0, true));
  if (headerBytes > maxHeaderBytes) fail(fileName, `corrupt: a header of ${headerBytes} bytes`);
  const dataStart = 8 + headerBytes;
  if (dataStart > buffer.byteLength) {
    fail(fileName, `truncated: the header ends at byte ${dataStart}, the file has ${buffer.byteLength}`);
  }
  let header: unknown;
  try {
    header = JSON.parse(
      new TextDecoder('utf-8', { fatal: true }).decode(new Uint8Array(buffer, 8, headerBytes)),
    );
  } catch (error) {
    fail(fileName, `corrupt: the header is not JSON (${(error as Error).message})`);
  }
  if (!isRecord(header)) fail(fileName, 'corrupt: the header is not a JSON object');
  return { header, dataStart };
}

function checkEntry(
  fileName: string,
  name: string,
  entry: unknown,
): { dtype: SafetensorsDtype; shape: number[]; begin: number; end: number } {
  if (!isRecord(entry)) fail(fileName, `corrupt: ${name} has no dtype, shape and data_offsets`);
  const { dtype, shape, data_offsets: offsets } = entry;
  if (typeof dtype !== 'string' || !(dtype in bytesPerElement)) {
    const supported = Object.keys(bytesPerElement).join(', ');
    fail(fileName, `${name} has dtype ${String(dtype)}, supported: ${supported}`);
  }
  if (!isCounts(shape) || !isCounts(offsets) || offsets.length !== 2) {
    fail(
      fileName,
      `corrupt: ${name} has shape ${JSON.stringify(shape)}, data_offsets ${JSON.stringify(offsets)}`,
    );
  }
  const [begin, end] = offsets;
  checkSize(fileName, name, dtype as SafetensorsDtype, shape, end - begin);
  return { dtype: dtype as SafetensorsDtype, shape, begin, end };
}

function checkSize(fn: string, name: string, dtype: SafetensorsDtype, shape: number[], bytes: number): void {
  const expected = shape.reduce((size, n) => size * n, bytesPerElement[dtype]);
  if (bytes !== expected) {
    fail(fn, `corrupt: ${name} ${dtype} ${shapeText(shape)} must have ${expected} bytes, got ${bytes}`);
  }
}

function checkNoGaps(
  fileName: string,
  spans: { name: string; begin: number; end: number }[],
  dataBytes: number,
): void {
  let expected = 0;
  for (const { name, begin, end } of spans.sort((a, b) => a.begin - b.begin || a.end - b.end)) {
    if (begin !== expected)
      fail(fileName, `corrupt: ${name} begins at byte ${begin} of the data, not ${expected}`);
    expected = end;
  }
  if (expected !== dataBytes) fail(fileName, `corrupt: ${dataBytes - expected} bytes after the last tensor`);
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isCounts(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((n) => Number.isSafeInteger(n) && n >= 0);
}
