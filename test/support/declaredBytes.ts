/** Workgroup memory as the shader declares it; each variable starts on 16 bytes. */
export function declaredBytes(wgsl: string): number {
  const constants = new Map(
    [...wgsl.matchAll(/const (\w+) = (\d+)u;/g)].map(([, name, value]) => [name, Number(value)]),
  );
  const sizes: Record<string, number> = { f32: 4, u32: 4, vec2u: 8, vec2f: 8, vec4f: 16, vec4u: 16 };
  return [...wgsl.matchAll(/var<workgroup> \w+: (?:array<(\w+), (\w+)>|(\w+));/g)]
    .map(([, element, count, single]) => {
      const bytes = single
        ? sizes[single]
        : sizes[element] * (Number(count) || (constants.get(count) ?? NaN));
      return Math.ceil(bytes / 16) * 16;
    })
    .reduce((sum, bytes) => sum + bytes, 0);
}
