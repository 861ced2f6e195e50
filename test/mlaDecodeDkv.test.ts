import { testKernel } from './support/kernelTest.js';

testKernel('MLADecodeDkv');
