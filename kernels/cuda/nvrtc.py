"""python3 nvrtc.py LIBRARY SOURCE CUBIN ARCHITECTURE INCLUDE...: compiles one .cu file to a cubin with NVRTC."""

import ctypes
import sys

# of the C library NVRTC has nothing; these are all that the kernels and cuda.h ask for
HEADERS = {
    b"math.h": b"""
#define INFINITY __int_as_float(0x7f800000)
#define NAN __int_as_float(0x7fffffff)
""",
    b"stddef.h": b"",
    b"stdlib.h": b"",
    b"stdint.h": b"""
typedef signed char int8_t;
typedef short int16_t;
typedef int int32_t;
typedef long long int64_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
typedef unsigned long uintptr_t;
""",
}


def texts(values):
    return (ctypes.c_char_p * len(values))(*values)


def ask(nvrtc, name, program):
    """What nvrtcGet{name}Size and nvrtcGet{name} give."""
    size = ctypes.c_size_t()
    getattr(nvrtc, f"nvrtcGet{name}Size")(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f"nvrtcGet{name}")(program, buffer)
    return buffer.raw


def main(library, source, cubin, architecture, *includes):
    nvrtc = ctypes.CDLL(library)
    with open(source, "rb") as file:
        code = file.read()
    program = ctypes.c_void_p()
    headers = len(HEADERS), texts(list(HEADERS.values())), texts(list(HEADERS))
    if nvrtc.nvrtcCreateProgram(ctypes.byref(program), code, source.encode(), *headers):
        return "nvrtcCreateProgram failed"
    # default-device: functions without a word are the device's, as cuda.h and plan.h declare some
    options = [f"--gpu-architecture={architecture}", "--std=c++17", "-default-device", "--pre-include=math.h"]
    options += [f"--include-path={folder}" for folder in includes]
    if nvrtc.nvrtcCompileProgram(program, len(options), texts([option.encode() for option in options])):
        return ask(nvrtc, "ProgramLog", program).rstrip(b"\0").decode()
    with open(cubin, "wb") as file:
        file.write(ask(nvrtc, "CUBIN", program))
    return None


sys.exit(main(*sys.argv[1:]))
