#!/usr/bin/env bash
# Builds the harness with nvcc alone, into a folder that need not exist:
#
#     test/cuda/build.sh native/harness                                  all modules
#     test/cuda/build.sh native/harness sm80 general/mla_attention       those of a family, and one
#     native/harness/harness --help
#
# Only what has changed is compiled again. A family of which nothing is asked for plans nothing. NVCC, NVCC_FLAGS and CC
# name other tools and flags; SM another device (90). The program may run on another machine than the one that built it.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cuda=$here/../../kernels/cuda
out=${1:?usage: build.sh FOLDER [FAMILY | FAMILY/MODULE]...}
shift
mkdir -p "$out"
out=$(cd "$out" && pwd)
export nvcc=${NVCC:-nvcc} cc=${CC:-gcc} flags=${NVCC_FLAGS:-} out cuda here
export sm=${SM:-$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -1 | tr -d .)}
sm=${sm:-90}

# compile TARGET SOURCE COMMAND...: runs the command unless it made the target of the same text before
compile() {
  local target=$1 source=$2 stamp
  shift 2
  stamp=$( (echo "$@"; cat "$source" $(find "$cuda" "$here" -name '*.h' -o -name '*.cuh' | sort)) | sha1sum)
  [ -f "$target" ] && [ "$(cat "$target.stamp" 2>/dev/null)" = "$stamp" ] && return
  rm -f "$target"
  if "$@" >"$target.log" 2>&1; then echo "$stamp" >"$target.stamp"; else
    echo "build.sh: $source does not compile:" >&2
    cat "$target.log" >&2
    return 1
  fi
}

# Code of sm_80 is compiled from PTX of compute_80, as the driver would do it.
compile_module() {
  local name=$1 arch="arch=compute_80,code=sm_$sm"
  [ "$sm" = 80 ] || [ "${name%%/*}" != sm90 ] || arch="arch=compute_90a,code=sm_90a"
  compile "$out/${name//\//-}.fatbin" "$cuda/$name.cu" \
    "$nvcc" -std=c++17 -O3 -lineinfo -Xptxas -v -gencode "$arch" --fatbin $flags "$cuda/$name.cu" -o "$out/${name//\//-}.fatbin"
}

compile_c() {
  local object=$out/$(echo "${1#"$cuda"/}" | tr / -).o
  compile "$object" "$1" "$cc" -std=gnu11 -O2 -Wall -Wextra -Werror -c "$1" -o "$object"
}

compile_cpp() {
  local object=$out/$(basename "$1").o options=-Wall,-Wextra,-march=x86-64-v3
  # sums may be taken in any order, in vectors
  [ "$(basename "$1")" != reference.cpp ] || options+=,-fassociative-math,-fno-signed-zeros,-fno-trapping-math
  compile "$object" "$1" "$nvcc" -std=c++20 -O3 -arch "sm_$sm" -Xcompiler "$options" -c "$1" -o "$object"
}

export -f compile compile_module compile_c compile_cpp

wanted() { # whether a module, or any of a family (`family/`), is asked for
  [ $# = 1 ] && return
  local name=$1
  shift
  for each in "$@"; do
    [[ $name == "$each" || $name == "$each"/* || $each == "$name"* ]] && return
  done
  return 1
}

modules=() sources=("$cuda/plan.c" "$cuda/driver.c") stubs=()
for family in sm90 sm80 general rows; do
  if ! wanted "$family/" "$@"; then
    # the plans of rows stand alone
    if [ "$family" = rows ]; then sources+=("$cuda/rows/plan.c"); else stubs+=("$family"); fi
    # others may use its other files
    for source in "$cuda/$family"/*.c; do [ "$(basename "$source")" = plan.c ] || sources+=("$source"); done
    continue
  fi
  sources+=("$cuda/$family"/*.c)
  for source in "$cuda/$family"/*.cu; do
    name=$family/$(basename "$source" .cu)
    [ -f "$source" ] && wanted "$name" "$@" && modules+=("$name")
  done
done

{
  [ ${#modules[@]} = 0 ] || printf 'compile_module %s\n' "${modules[@]}"
  printf 'compile_c %s\n' "${sources[@]}"
  printf 'compile_cpp %s\n' "$here"/*.cpp "$here"/*.cu
} | xargs -P "$(nproc)" -I{} bash -c '{}' || failed=1

objects=("$out/modules.c.o")
for source in "${sources[@]}"; do objects+=("$out/$(echo "${source#"$cuda"/}" | tr / -).o"); done
for source in "$here"/*.cpp "$here"/*.cu; do objects+=("$out/$(basename "$source").o"); done

# the table of modules, and families that serve nothing
{
  echo "#include \"$cuda/modules.h\""
  echo "#include \"$cuda/families.h\""
  rows=
  for name in "${modules[@]}"; do
    fatbin=$out/${name//\//-}.fatbin label=module_${name//\//_}
    [ -f "$fatbin" ] || continue
    echo "__asm__(\".section .rodata\\n.balign 64\\n$label: .incbin \\\"$fatbin\\\"\\n${label}_end: .byte 0\\n.previous\");"
    echo "extern const unsigned char $label[], ${label}_end[];"
    rows+="  {\"$name\", $label, ${label}_end, 0, 0},"$'\n'
  done
  echo "const MlaModule mla_modules[] = {"$'\n'"$rows  {0, 0, 0, 0, 0},"$'\n'"};"
  for family in "${stubs[@]}"; do
    echo "int mla_plan_$family(const MlaDevice *d, MlaKernel k, const MlaParams *p, void *w, MlaPlan *plan) {"
    echo "  return (void)d, (void)k, (void)p, (void)w, (void)plan, 0;"$'\n'"}"
  done
} >"$out/modules.c"
"$cc" -std=gnu11 -O2 -Wall -Wextra -Werror -c "$out/modules.c" -o "$out/modules.c.o" &&
  "$nvcc" -arch "sm_$sm" -L "$(dirname "$(command -v "$nvcc")")/../lib" "${objects[@]}" -o "$out/harness" || exit 1
exit ${failed:-0}
