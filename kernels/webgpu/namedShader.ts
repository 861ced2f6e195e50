import type { Binding } from './operands.js';
import type { Shader } from './pipeline.js';

/** A shader with the names of its bindings. */
export interface NamedShader extends Shader {
  bindings: Binding[];
}

/** The cache key is the record of all that is compiled in; nobody writes one by hand. */
export function named(name: string, record: object, bindings: Binding[], wgsl: () => string): NamedShader {
  return {
    cacheKey: `${name} ${JSON.stringify(record)}`,
    bindings,
    access: bindings.map(({ access }) => access),
    wgsl,
  };
}
