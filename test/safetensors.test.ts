/** The safetensors format: every dtype, both ways, and every way in which a file can be bad. */
import {
  float32Values,
  readSafetensors,
  readWeights,
  storeFloat32,
  writeSafetensors,
} from '../src/models.js';
import type { SafetensorsDtype, StoredTensor } from '../src/models.js';
import { filesIn } from './support/checkpoints.js';
import { expectEqual, expectRejects, expectThrows, expectTrue } from './support/expect.js';

function stored(
  dtype: SafetensorsDtype,
  values: ArrayBufferView<ArrayBuffer>,
  shape: number[],
): StoredTensor {
  return { dtype, shape, bytes: new Uint8Array(values.buffer, values.byteOffset, values.byteLength) };
}

/** A file with a header of one's own. */
function fileWith(header: unknown, dataBytes: number): ArrayBuffer {
  const text = new TextEncoder().encode(typeof header === 'string' ? header : JSON.stringify(header));
  const file = new Uint8Array(8 + text.length + dataBytes);
  new DataView(file.buffer).setBigUint64(0, BigInt(text.length), true);
  file.set(text, 8);
  return file.buffer;
}

const entry = (changes: object = {}): object => ({
  a: { dtype: 'F32', shape: [2], data_offsets: [0, 8], ...changes },
});

describe('safetensors', () => {
  it('values of every dtype', () => {
    const values: [SafetensorsDtype, ArrayBufferView<ArrayBuffer>, number[]][] = [
      ['F32', Float32Array.of(1.5, -2), [1.5, -2]],
      ['F64', Float64Array.of(1.5, -2), [1.5, -2]],
      ['BF16', Uint16Array.of(0x3fc0, 0xc000), [1.5, -2]],
      // 1.5, -2, the smallest subnormal, the largest number, ±0, ±∞, NaN
      [
        'F16',
        Uint16Array.of(0x3e00, 0xc000, 0x0001, 0x7bff, 0x0000, 0x8000, 0x7c00, 0xfc00, 0x7e00),
        [1.5, -2, 2 ** -24, 65504, 0, -0, Infinity, -Infinity, NaN],
      ],
      ['I64', BigInt64Array.of(3n, -4n), [3, -4]],
      ['I32', Int32Array.of(3, -4), [3, -4]],
      ['U8', Uint8Array.of(3, 255), [3, 255]],
    ];
    const file = writeSafetensors(
      new Map(values.map(([dtype, view, { length }]) => [dtype, stored(dtype, view, [length])])),
    );
    const { tensors, metadata } = readSafetensors(file.buffer);
    expectEqual(metadata, { format: 'pt' });
    for (const [dtype, , expected] of values) {
      expectEqual(float32Values(tensors.get(dtype) as StoredTensor), expected, dtype);
    }
  });

  it('an odd header, empty tensors and scalars', () => {
    const tensors = new Map([
      ['scalar', storeFloat32(Float32Array.of(7), [])],
      ['empty', storeFloat32(new Float32Array(0), [0, 3])],
    ]);
    const read = readSafetensors(writeSafetensors(tensors, { note: 'ä' }).buffer);
    expectEqual(read.metadata, { note: 'ä' });
    expectEqual([...read.tensors.keys()].sort(), ['empty', 'scalar']);
    expectEqual(float32Values(read.tensors.get('scalar') as StoredTensor), [7]);
    expectEqual(read.tensors.get('empty')?.shape, [0, 3]);
    const empty = writeSafetensors(new Map());
    expectTrue(
      empty.length % 8 === 0 && readSafetensors(empty.buffer).tensors.size === 0,
      'expected no tensor',
    );
  });

  it('any cut is noticed', () => {
    const { buffer } = writeSafetensors(new Map([['a', storeFloat32(Float32Array.of(1, 2), [2])]]));
    for (let bytes = 0; bytes < buffer.byteLength; bytes++) {
      let message = '';
      try {
        readSafetensors(buffer.slice(0, bytes), 'cut');
      } catch (error) {
        ({ message } = error as Error);
      }
      expectTrue(message.startsWith('cut: truncated: '), `${bytes} bytes: got "${message}"`);
    }
  });

  it('what is wrong is named', () => {
    const expectBad = (header: unknown, dataBytes: number, message: string): void => {
      expectThrows(() => readSafetensors(fileWith(header, dataBytes), 'file'), message);
    };
    expectBad('{"a":', 0, 'file: corrupt: the header is not JSON (Unexpected end of JSON input)');
    expectBad([], 0, 'file: corrupt: the header is not a JSON object');
    expectBad({ a: 1 }, 0, 'file: corrupt: a has no dtype, shape and data_offsets');
    expectBad(
      entry({ dtype: 'F8' }),
      8,
      'file: a has dtype F8, supported: F64, I64, F32, I32, F16, BF16, U8',
    );
    expectBad(entry({ shape: [-2] }), 8, 'file: corrupt: a has shape [-2], data_offsets [0,8]');
    expectBad(entry({ data_offsets: [8] }), 8, 'file: corrupt: a has shape [2], data_offsets [8]');
    expectBad(entry({ shape: [3] }), 8, 'file: corrupt: a F32 [3] must have 12 bytes, got 8');
    expectBad(entry({ data_offsets: [4, 12] }), 12, 'file: corrupt: a begins at byte 4 of the data, not 0');
    expectBad(entry(), 9, 'file: corrupt: 1 bytes after the last tensor');
    expectBad(
      { ...entry(), b: { dtype: 'U8', shape: [4], data_offsets: [4, 8] } },
      8,
      'file: corrupt: b begins at byte 4 of the data, not 8',
    );
    const huge = new Uint8Array(16).fill(255);
    expectThrows(
      () => readSafetensors(huge.buffer, 'file'),
      'file: corrupt: a header of 18446744073709552000 bytes',
    );
    expectThrows(
      () => writeSafetensors(new Map([['a', storeFloat32(Float32Array.of(1), [2])]])),
      'writeSafetensors: corrupt: a F32 [2] must have 8 bytes, got 4',
    );
  });

  it('shards by their index', async () => {
    const shard = (name: string, value: number): Uint8Array<ArrayBuffer> =>
      writeSafetensors(new Map([[name, storeFloat32(Float32Array.of(value), [1])]]));
    const index = (map: object): Uint8Array<ArrayBuffer> =>
      new TextEncoder().encode(JSON.stringify({ weight_map: map }));
    const files = new Map([
      ['one.safetensors', shard('a', 1)],
      ['two.safetensors', shard('b', 2)],
      ['model.safetensors.index.json', index({ a: 'one.safetensors', b: 'two.safetensors' })],
    ]);
    const weights = await readWeights(filesIn(files));
    expectEqual(
      [...weights].map(([name, tensor]) => [name, float32Values(tensor)[0]]),
      [
        ['a', 1],
        ['b', 2],
      ],
    );
    const change = (name: string, content: Uint8Array<ArrayBuffer>) => () =>
      readWeights(filesIn(new Map([...files, [name, content]])));
    await expectRejects(
      change('model.safetensors.index.json', index({ a: 'three.safetensors' })),
      'checkpoint: three.safetensors is missing, which model.safetensors.index.json names',
    );
    await expectRejects(
      change('two.safetensors', shard('c', 3)),
      'checkpoint: b is missing in two.safetensors, where model.safetensors.index.json has it',
    );
    await expectRejects(
      change('model.safetensors.index.json', new TextEncoder().encode('{}')),
      'model.safetensors.index.json: has no weight_map',
    );
  });
});
