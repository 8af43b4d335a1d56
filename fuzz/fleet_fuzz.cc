// What a fleet reads back or hears from others: its own files, QMP lines, a guest's console. What
// decodes is valid and encodes to the same record; nothing else happens than an error.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "fleet/console.h"
#include "fleet/qmp.h"
#include "fleet/spec.h"

using namespace squall;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto record = decode_fleet_record(text)) {
    CHECK(validate(record->spec));
    CHECK(*decode_fleet_record(encode_fleet_record(*record)) == *record);
  }
  if (const auto record = decode_vm_record(text))
    CHECK(*decode_vm_record(encode_vm_record(*record)) == *record);
  std::string error;
  static_cast<void>(parse_qmp_line(text, &error));
  const std::string line = last_line(text, 100);
  CHECK(line.size() <= 100);
  for (const char c : line) CHECK(c >= 0x20 && c < 0x7f);
  // Whether a text is found does not depend on how the stream is cut.
  const bool found = text.find("login:") != std::string_view::npos;
  TextScanner scanner({"login:"});
  const size_t cut = size == 0 ? 0 : data[0] % size;
  scanner.feed(text.substr(0, cut));
  CHECK(scanner.feed(text.substr(cut)) == found);
  return 0;
}
