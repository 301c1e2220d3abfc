"""The kernels of CPUs: C, built at first use by the machine's own compiler, in half a second."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

TILE, CHUNK = 2048, 16384
"""Elements of a total that stay in the first cache; elements of a dot product's part."""

_SOURCE = """
#include <stdint.h>
#include <string.h>

static inline float load_f32(float x) { return x; }
static inline float store_f32(float x) { return x; }
static inline float load_bf16(uint16_t x) {
  uint32_t bits = (uint32_t)x << 16;
  float y;
  memcpy(&y, &bits, 4);
  return y;
}
static inline uint16_t store_bf16(float x) { /* to nearest, ties to even */
  uint32_t bits;
  memcpy(&bits, &x, 4);
  if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fc0;
  return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}
"""
_TEMPLATE = """
/* out[b, l] = sum_s w[b, s] * x[s][row, l], row = rows[b, s], or b without rows; a row below 0
   is left out. w has `stride` 0 between samples that share it. */
void sum_NAME(const TYPE *const *x, const int64_t *rows, const float *w, TYPE *out, int64_t S,
              int64_t B, int64_t L, int64_t stride, int threads) {
  const int64_t tiles = (L + TILE - 1) / TILE;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t job = 0; job < B * tiles; job++) {
    const int64_t b = job / tiles, start = job % tiles * TILE;
    const int64_t left = L - start, n = left < TILE ? left : TILE;
    const TYPE *p[S];
    float v[S], total[TILE];
    int64_t live = 0, s = 0;
    for (int64_t i = 0; i < S; i++) {
      const int64_t row = rows ? rows[b * S + i] : b;
      if (row < 0) continue;
      p[live] = x[i] + row * L + start;
      v[live++] = w[b * stride + i];
    }
    for (int64_t i = 0; i < n; i++) total[i] = 0;
    for (; s + 3 < live; s += 4) {
      const TYPE *pa = p[s], *pb = p[s + 1], *pc = p[s + 2], *pd = p[s + 3];
      const float va = v[s], vb = v[s + 1], vc = v[s + 2], vd = v[s + 3];
      for (int64_t i = 0; i < n; i++)
        total[i] += va * load_NAME(pa[i]) + vb * load_NAME(pb[i])
                  + vc * load_NAME(pc[i]) + vd * load_NAME(pd[i]);
    }
    for (; s < live; s++) {
      const TYPE *pa = p[s];
      const float va = v[s];
      for (int64_t i = 0; i < n; i++) total[i] += va * load_NAME(pa[i]);
    }
    for (int64_t i = 0; i < n; i++) out[b * L + start + i] = store_NAME(total[i]);
  }
}

/* sum_NAME, and dots[b, t, s] = sum over tile t of x[s][b, l] * y[b, l] */
void both_NAME(const TYPE *const *x, const float *w, const TYPE *y, TYPE *out, float *dots,
               int64_t S, int64_t B, int64_t L, int64_t stride, int threads) {
  const int64_t tiles = (L + TILE - 1) / TILE;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t job = 0; job < B * tiles; job++) {
    const int64_t b = job / tiles, start = b * L + job % tiles * TILE;
    const int64_t left = (b + 1) * L - start, n = left < TILE ? left : TILE;
    const float *wb = w + b * stride;
    const TYPE *z = y + start;
    float *found = dots + job * S;
    float total[TILE];
    for (int64_t i = 0; i < n; i++) total[i] = 0;
    int64_t s = 0;
    for (; s + 1 < S; s += 2) {
      const TYPE *p = x[s] + start, *q = x[s + 1] + start;
      const float wp = wb[s], wq = wb[s + 1];
      float dp = 0, dq = 0;
      for (int64_t i = 0; i < n; i++) {
        const float pi = load_NAME(p[i]), qi = load_NAME(q[i]), zi = load_NAME(z[i]);
        total[i] += wp * pi + wq * qi;
        dp += pi * zi;
        dq += qi * zi;
      }
      found[s] = dp, found[s + 1] = dq;
    }
    if (s < S) {
      const TYPE *p = x[s] + start;
      const float wp = wb[s];
      float dp = 0;
      for (int64_t i = 0; i < n; i++) {
        const float pi = load_NAME(p[i]);
        total[i] += wp * pi;
        dp += pi * load_NAME(z[i]);
      }
      found[s] = dp;
    }
    for (int64_t i = 0; i < n; i++) out[start + i] = store_NAME(total[i]);
  }
}

/* out[b, c, s] = sum over chunk c of x[s][b, l] * y[b, l] */
void dot_NAME(const TYPE *const *x, const TYPE *y, float *out, int64_t S, int64_t B, int64_t L,
              int threads) {
  const int64_t chunks = (L + CHUNK - 1) / CHUNK;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t job = 0; job < B * chunks; job++) {
    const int64_t b = job / chunks, start = b * L + job % chunks * CHUNK;
    const int64_t left = (b + 1) * L - start, n = left < CHUNK ? left : CHUNK;
    for (int64_t s = 0; s < S; s++) {
      const TYPE *p = x[s] + start, *q = y + start;
      float total = 0;
      for (int64_t i = 0; i < n; i++) total += load_NAME(p[i]) * load_NAME(q[i]);
      out[job * S + s] = total;
    }
  }
}
"""
TYPES = {torch.float32: ("f32", "float"), torch.bfloat16: ("bf16", "uint16_t")}
_VECTORS = {
    "AVX512": ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma"),
    "AVX2": ("-mavx2", "-mfma"),
}


def is_available() -> bool:
    """Whether this machine's compiler has built them."""
    return library() is not None


def weighted_sum(
    values: Sequence[Tensor], weights: Tensor, total: Tensor, rows: Tensor | None
) -> None:
    """See `runtime.kernels.weighted_sum`."""
    _call("sum", values, (rows, weights, total), weights)


def dot_products(values: Sequence[Tensor], other: Tensor) -> Tensor:
    """See `runtime.kernels.dot_products`."""
    parts = torch.empty(len(other), -(-other[0].numel() // CHUNK), len(values))
    _call("dot", values, (other, parts))
    return parts.sum(1)


def sum_and_dot_products(
    values: Sequence[Tensor], weights: Tensor, other: Tensor, total: Tensor
) -> Tensor:
    """See `runtime.kernels.sum_and_dot_products`."""
    parts = torch.empty(len(other), -(-other[0].numel() // TILE), len(values))
    _call("both", values, (weights, other, total, parts), weights)
    return parts.sum(1)


def _call(
    function: str,
    values: Sequence[Tensor],
    operands: Sequence[Tensor | None],
    weights: Tensor | None = None,
) -> None:
    first, last = values[0], operands[-1]
    assert last is not None
    sizes = [len(values), len(last), first[0].numel()]
    if weights is not None:  # a stride of 0 where all samples share them
        sizes.append(len(values) if len(weights) > 1 else 0)
    pointers = (ctypes.c_void_p * len(values))(*(value.data_ptr() for value in values))
    getattr(library(), f"{function}_{TYPES[first.dtype][0]}")(
        pointers,
        *(ctypes.c_void_p(None if o is None else o.data_ptr()) for o in operands),
        *map(ctypes.c_int64, sizes),
        torch.get_num_threads(),
    )


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, from the user's cache; None where they cannot be made."""
    program, *options = shlex.split(os.environ.get("CC", "")) or ["cc"]
    compiler = shutil.which(program)
    if compiler is None:
        return None
    vectors = _VECTORS.get(torch.backends.cpu.get_cpu_capability(), ())
    # Not -ffast-math: linked into a library, it turns denormal numbers off for the whole process.
    reorder = ("-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math")
    flags = [*options, "-O3", *reorder, "-fopenmp", "-shared", "-fPIC", *vectors]
    source = _SOURCE + "".join(
        _TEMPLATE.replace("NAME", name).replace("TYPE", ctype) for name, ctype in TYPES.values()
    )
    source = source.replace("TILE", str(TILE)).replace("CHUNK", str(CHUNK))
    key = hashlib.sha256("\0".join([source, compiler, *flags]).encode()).hexdigest()[:16]
    command, name = [compiler, *flags], f"sums-{key}.so"
    try:
        try:
            cache_home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
            return _load(command, source, Path(cache_home) / "graphc" / name)
        except (OSError, RuntimeError):  # no home, or none that can be written
            with tempfile.TemporaryDirectory() as folder:
                return _load(command, source, Path(folder) / name)
    except (OSError, subprocess.SubprocessError) as error:
        logging.getLogger(__name__).info("torch's operations instead of compiled sums: %s", error)
        return None


def _load(command: Sequence[str], source: str, path: Path) -> ctypes.CDLL:
    if not path.exists():
        _build(command, source, path)
    return ctypes.CDLL(str(path))


def _build(command: Sequence[str], source: str, path: Path) -> None:
    """Compiles beside `path` and renames, so that processes that do the same never meet."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        text, built = Path(folder) / "sums.c", Path(folder) / "sums.so"
        text.write_text(source, encoding="utf-8")
        subprocess.run(
            [*command, str(text), "-o", str(built)], check=True, capture_output=True, timeout=60
        )
        os.replace(built, path)
