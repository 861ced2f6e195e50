/** TensorFlow in Node: tfjs-node with our ops, as native kernels inside libtensorflow. Loading it makes it current. */
import { registerTensorflowKernels } from '../kernels/tensorflow/index.js';
import { loadTfjsNode } from './device/loadTfjsNode.js';

registerTensorflowKernels(loadTfjsNode());
