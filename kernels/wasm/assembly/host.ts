/** What the host lends: WebAssembly has no logarithm. */
export declare function log(x: f64): f64;
