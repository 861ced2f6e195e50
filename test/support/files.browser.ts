/** Golden files over HTTP, from the server of test/browser; stands in for files.ts. */
import type * as node from './files.js';

export const readGolden: typeof node.readGolden = async (path) => {
  const response = await fetch(`/golden/${path}`);
  if (!response.ok)
    throw new Error(`readGolden: expected a file test/golden/${path}, got ${response.status}`);
  return response.arrayBuffer();
};
