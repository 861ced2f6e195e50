/** Models as ONNX bytes: as much of protobuf and of onnx.proto3 as a graph of a few nodes takes. */

export const elementTypes = { float32: 1, int32: 6, float16: 10 } as const;
export type ElementType = keyof typeof elementTypes;

export interface OnnxTensor {
  name: string;
  type: ElementType;
  shape: number[];
}

export interface OnnxNode {
  operator: string;
  inputs: string[];
  outputs: string[];
  /** '' = ai.onnx */
  domain?: string;
  /** `integers` and `floats` by their names */
  integers?: Record<string, number>;
  floats?: Record<string, number>;
}

export interface OnnxGraph {
  inputs: OnnxTensor[];
  outputs: OnnxTensor[];
  nodes: OnnxNode[];
}

/** The domain of ONNX Runtime's own operators. */
export const contributed = 'com.microsoft';

/** Field numbers and enums: onnx.proto3 of ONNX 1.16. */
export function encodeModel({ inputs, outputs, nodes }: OnnxGraph): Uint8Array {
  const graph = message(
    ...nodes.map((node) => bytesField(1, encodeNode(node))),
    textField(2, 'attention'),
    ...inputs.map((tensor) => bytesField(11, encodeValueInfo(tensor))),
    ...outputs.map((tensor) => bytesField(12, encodeValueInfo(tensor))),
  );
  const operatorSet = (domain: string, version: number): Uint8Array =>
    message(textField(1, domain), integerField(2, version));
  return message(
    integerField(1, 9), // ir_version
    bytesField(7, graph),
    bytesField(8, operatorSet('', 20)),
    bytesField(8, operatorSet(contributed, 1)),
  );
}

function encodeNode({ operator, inputs, outputs, domain, integers, floats }: OnnxNode): Uint8Array {
  const attribute = (name: string, value: Uint8Array, type: number): Uint8Array =>
    bytesField(5, message(textField(1, name), value, integerField(20, type)));
  return message(
    ...inputs.map((name) => textField(1, name)),
    ...outputs.map((name) => textField(2, name)),
    textField(4, operator),
    ...Object.entries(floats ?? {}).map(([name, value]) => attribute(name, floatField(2, value), 1)),
    ...Object.entries(integers ?? {}).map(([name, value]) => attribute(name, integerField(3, value), 2)),
    textField(7, domain ?? ''),
  );
}

function encodeValueInfo({ name, type, shape }: OnnxTensor): Uint8Array {
  const dims = shape.map((size) => bytesField(1, integerField(1, size)));
  const tensorType = message(integerField(1, elementTypes[type]), bytesField(2, message(...dims)));
  return message(textField(1, name), bytesField(2, bytesField(1, tensorType)));
}

function message(...fields: Uint8Array[]): Uint8Array {
  return Uint8Array.from(Buffer.concat(fields));
}

function integerField(field: number, value: number): Uint8Array {
  return message(varint(field << 3), varint(value));
}

function floatField(field: number, value: number): Uint8Array {
  return message(varint((field << 3) | 5), new Uint8Array(Float32Array.of(value).buffer));
}

function bytesField(field: number, value: Uint8Array): Uint8Array {
  return message(varint((field << 3) | 2), varint(value.length), value);
}

function textField(field: number, value: string): Uint8Array {
  return bytesField(field, new TextEncoder().encode(value));
}

/** Not negative: seven bits a byte, the lowest first. */
function varint(value: number): Uint8Array {
  const bytes: number[] = [];
  for (let rest = value; ; rest = Math.floor(rest / 128)) {
    if (rest < 128) return Uint8Array.of(...bytes, rest);
    bytes.push((rest % 128) | 128);
  }
}
