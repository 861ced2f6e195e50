/** A GPU in words: what it is called, and whether it is a real one. */
export interface AdapterDescription {
  readonly name: string;
  readonly vendor: string;
  readonly architecture: string;
  readonly device: string;
  readonly description: string;
  readonly isSoftware: boolean;
}

type AdapterInfo = Partial<Record<'vendor' | 'architecture' | 'device' | 'description', string>>;

const softwareNames: readonly [RegExp, string][] = [
  [/swiftshader/i, 'SwiftShader'],
  [/llvmpipe/i, 'llvmpipe'],
  [/lavapipe/i, 'lavapipe'],
  [/basic render/i, 'WARP'],
];

export function describeAdapter(adapter: GPUAdapter): AdapterDescription {
  const { vendor = '', architecture = '', device = '', description = '' } = infoOf(adapter);
  const all = [vendor, architecture, device, description].join(' ').trim();
  const software = softwareNames.find(([pattern]) => pattern.test(all));
  const name = software?.[1] ?? (device || description || all || 'unnamed GPU');
  return { name, vendor, architecture, device, description, isSoftware: software !== undefined };
}

/** The WebGPU types that tfjs-core 4.22 pins know requestAdapterInfo() only, which browsers have removed since. */
function infoOf(adapter: GPUAdapter): AdapterInfo {
  return (adapter as GPUAdapter & { info?: AdapterInfo }).info ?? {};
}
