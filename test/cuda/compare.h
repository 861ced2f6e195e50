// How far a kernel may be from the reference, and how far it is.
#pragma once

#include "reference.h"

struct Bounds {
  double norm;  // of ||got - expected|| / ||expected||
  double worst; // of max|got - expected| / max|expected|
};

/*
 * A kernel rounds its weights (P, dS) once to the format with roundoff u that it multiplies, and its results once to the
 * tensors' type; sums are float32. Both errors are random of about u/2 relative to each number, so some u in the norm:
 * 4u for out, and 8u for gradients, where dP - delta cancels a digit. The worst element lies some standard deviations
 * out: 4 times the norm's bound, relative to the largest element.
 * float32 tensors that are multiplied as a narrower format have rounded q and k too: scores are off by u times their
 * size, weights by as much relative to themselves.
 * float32 as float32: 1e-5, for gradients 2e-5, some twenty times what plain float32 is off where scores are below 8;
 * beyond, more in proportion, since a score is off by its size times a roundoff.
 * Rows that see nothing, and keys that nobody sees, have 0 and nothing near it.
 * delta: float32 sums of exact products, 1e-5. lse: 1e-5 absolute, relative beyond 1; as above where q and k are rounded.
 */
struct Tolerance {
  Bounds out, delta, gradient;
  double lse;
};
Tolerance tolerance_of(const Numbers &numbers, double largest_score);

// One line on a tensor; `failure` is empty where it is within the bounds.
struct Comparison {
  std::string figures, failure = {};
  double of_bound = 0; // the error as a fraction of what is allowed
};
// `is_blind(b, position)`: nothing is seen there.
using IsBlind = std::function<bool(int, int)>;
Comparison compare(const Values &got, const Expected &expected, Bounds bounds, MlaType type, const IsBlind &is_blind);
Comparison compare_lse(const Values &got, const Expected &expected, double bound);
