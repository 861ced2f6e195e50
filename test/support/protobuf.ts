/** The values of each field of a message, in order. */
export type Fields = Map<number, (number | Uint8Array)[]>;

/** Protobuf, as far as the encoder goes: varints, 32-bit floats, bytes. */
export function readMessage(bytes: Uint8Array): Fields {
  const fields: Fields = new Map();
  let at = 0;
  const varint = (): number => {
    for (let value = 0, scale = 1; ; scale *= 128) {
      const byte = bytes[at++];
      value += (byte % 128) * scale;
      if (byte < 128) return value;
    }
  };
  const readValue = (wireType: number): number | Uint8Array => {
    if (wireType === 0) return varint();
    const length = wireType === 5 ? 4 : varint();
    const value = bytes.slice(at, (at += length));
    return wireType === 5 ? new DataView(value.buffer).getFloat32(0, true) : value;
  };
  while (at < bytes.length) {
    const key = varint();
    const value = readValue(key % 8);
    fields.set(key >> 3, [...(fields.get(key >> 3) ?? []), value]);
  }
  return fields;
}

export function messages(fields: Fields, field: number): Fields[] {
  return (fields.get(field) ?? []).map((value) => readMessage(value as Uint8Array));
}

export function texts(fields: Fields, field: number): string[] {
  return (fields.get(field) ?? []).map((value) => new TextDecoder().decode(value as Uint8Array));
}
