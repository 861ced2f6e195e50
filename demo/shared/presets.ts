import type { DeepseekConfig } from '../../src/models.js';
import type { TrainingSettings } from './trainer.js';

export interface Preset {
  /** One line for --help and the page. */
  about: string;
  model: DeepseekConfig;
  training: TrainingSettings;
}

export type PresetName = 'tiny' | 'small' | 'medium' | 'large';

export const defaultPreset: PresetName = 'small';

/** Models of growing size, with the training that suits them. */
export const presets: Record<PresetName, Preset> = {
  tiny: {
    about: '17 thousand parameters: for tests, learns little',
    model: decoder({
      hiddenSize: 32,
      intermediateSize: 64,
      numHiddenLayers: 1,
      heads: 2,
      headDims: [8, 4, 8],
      rank: 16,
    }),
    training: training({ batch: 2, sequence: 32, learningRate: 5e-3, totalSteps: 40 }),
  },
  small: {
    about: '0.2 million parameters: three minutes on a CPU',
    model: decoder({
      hiddenSize: 96,
      intermediateSize: 256,
      numHiddenLayers: 2,
      heads: 4,
      headDims: [16, 8, 16],
      rank: 32,
    }),
    training: training({ batch: 4, sequence: 128, learningRate: 5e-3, totalSteps: 2200 }),
  },
  medium: {
    about: '1.8 million parameters: for an integrated GPU',
    model: decoder({
      hiddenSize: 192,
      intermediateSize: 512,
      numHiddenLayers: 4,
      heads: 6,
      headDims: [32, 16, 32],
      rank: 64,
    }),
    training: training({ batch: 8, sequence: 256, learningRate: 2e-3, totalSteps: 1000 }),
  },
  large: {
    about: '6.3 million parameters: for a GPU of its own',
    model: decoder({
      hiddenSize: 256,
      intermediateSize: 704,
      numHiddenLayers: 6,
      heads: 8,
      headDims: [64, 32, 64],
      rank: 128,
    }),
    training: training({ batch: 16, sequence: 512, learningRate: 1e-3, totalSteps: 2000 }),
  },
};

interface DecoderSizes {
  hiddenSize: number;
  intermediateSize: number;
  numHiddenLayers: number;
  heads: number;
  /** qkNopeHeadDim, qkRopeHeadDim, vHeadDim */
  headDims: [number, number, number];
  rank: number;
}

function decoder({ heads, headDims, rank, ...sizes }: DecoderSizes): DeepseekConfig {
  const [qkNopeHeadDim, qkRopeHeadDim, vHeadDim] = headDims;
  return {
    ...sizes,
    vocabSize: 256,
    numAttentionHeads: heads,
    qkNopeHeadDim,
    qkRopeHeadDim,
    vHeadDim,
    kvLoraRank: rank,
    qLoraRank: null,
    maxPositionEmbeddings: 2048,
    ropeTheta: 10000,
    ropeScaling: null,
    ropeInterleave: true,
    attentionBias: false,
    rmsNormEps: 1e-6,
    tieWordEmbeddings: true,
    initializerRange: 0.05,
    bosTokenId: null,
    eosTokenId: null,
  };
}

function training(
  settings: Pick<TrainingSettings, 'batch' | 'sequence' | 'learningRate' | 'totalSteps'>,
): TrainingSettings {
  return { ...settings, warmupSteps: Math.ceil(settings.totalSteps / 20), clipNorm: 1, seed: 1 };
}
