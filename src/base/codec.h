// ByteWriter and ByteReader: sequential little-endian encoding for small structures (catalog
// values, headers). A reader never reads past its bytes: after the first overrun it stays failed
// and gives zeros, so decode functions check ok() once at the end.
#pragma once

#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/check.h"
#include "base/uuid.h"

namespace squall {

class ByteWriter {
 public:
  template <class T>
    requires std::is_integral_v<T>
  ByteWriter& put(T value) {
    char raw[sizeof(T)];
    store_le(raw, value);
    out_.append(raw, sizeof raw);
    return *this;
  }
  ByteWriter& put(const Uuid& id) { return put_raw(id.bytes); }
  ByteWriter& put_raw(ConstBytes bytes) {
    out_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return *this;
  }
  // Length (16 bits), then the bytes.
  ByteWriter& put_string(std::string_view text) {
    CHECK(text.size() <= 0xffff);
    put(static_cast<uint16_t>(text.size()));
    out_.append(text);
    return *this;
  }
  std::string take() { return std::move(out_); }
  const std::string& text() const { return out_; }

 private:
  std::string out_;
};

class ByteReader {
 public:
  explicit ByteReader(ConstBytes bytes) : bytes_(bytes) {}
  template <class T>
    requires std::is_integral_v<T>
  T get() {
    const ConstBytes raw = take(sizeof(T));
    return raw.empty() ? T{} : load_le<T>(raw.data());
  }
  Uuid get_uuid() {
    Uuid id;
    const ConstBytes raw = take(id.bytes.size());
    if (!raw.empty()) std::memcpy(id.bytes.data(), raw.data(), raw.size());
    return id;
  }
  std::string get_string() { return std::string(as_text(take(get<uint16_t>()))); }
  ConstBytes take(size_t size) {
    if (size > bytes_.size()) failed_ = true;
    if (failed_) return {};
    const ConstBytes head = bytes_.first(size);
    bytes_ = bytes_.subspan(size);
    return head;
  }
  size_t left() const { return bytes_.size(); }
  bool ok() const { return !failed_; }

 private:
  ConstBytes bytes_;
  bool failed_ = false;
};

}  // namespace squall
