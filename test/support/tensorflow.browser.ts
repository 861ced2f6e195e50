/** There is no TensorFlow in a page; stands in for tensorflow.ts. */
import type * as node from './tensorflow.js';

export const isTensorflowSetUp: typeof node.isTensorflowSetUp = false;
export const isTensorflowProcess: typeof node.isTensorflowProcess = false;
export const tfjsNode: typeof node.tfjsNode = '';

export const loadTensorflow: typeof node.loadTensorflow = async () => 'there is no TensorFlow in a page';
