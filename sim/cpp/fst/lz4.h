// What Verilator's FST writer needs of LZ4, without the library: a valid block of literals only.
#pragma once

#include <cstring>

inline int LZ4_compressBound(int size) { return size + size / 255 + 16; }

inline int LZ4_compress_default(const char* source, char* target, int size, int capacity) {
  if (capacity < LZ4_compressBound(size)) return 0;
  char* out = target;
  *out++ = static_cast<char>((size < 15 ? size : 15) << 4);  // token: literals, no match
  if (size >= 15) {
    int rest = size - 15;
    for (; rest >= 255; rest -= 255) *out++ = static_cast<char>(255);
    *out++ = static_cast<char>(rest);
  }
  std::memcpy(out, source, static_cast<std::size_t>(size));
  return static_cast<int>(out - target) + size;
}
