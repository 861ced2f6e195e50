import { testKernel } from './support/kernelTest.js';

testKernel('MLADelta');
