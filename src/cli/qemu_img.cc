#include "cli/qemu_img.h"

#include <algorithm>
#include <array>
#include <boost/json.hpp>

#include "cli/child_process.h"

namespace squall {

namespace json = boost::json;

bool is_container_format(const std::string& format) {
  static constexpr std::array<std::string_view, 9> kContainers = {
      "qcow2", "qcow", "qed", "vmdk", "vdi", "vhdx", "vpc", "parallels", "dmg"};
  return std::ranges::find(kContainers, format) != kContainers.end();
}

bool may_be_container(ConstBytes head) {
  struct Magic {
    size_t offset;
    std::string_view bytes;
  };
  using namespace std::string_view_literals;
  static constexpr std::array<Magic, 10> kMagics = {{{0, "QFI\xfb"sv},                // qcow, qcow2
                                                     {0, "QED\0"sv},                  // qed
                                                     {0, "KDMV"sv},                   // vmdk
                                                     {0, "COWD"sv},                   // vmdk, ESX
                                                     {0, "# Disk DescriptorFile"sv},  // vmdk
                                                     {0x40, "\x7f\x10\xda\xbe"sv},    // vdi
                                                     {0, "vhdxfile"sv},               // vhdx
                                                     {0, "conectix"sv},               // vpc
                                                     {0, "WithoutFreeSpace"sv},       // parallels
                                                     {0, "WithouFreSpacExt"sv}}};     // parallels
  return std::ranges::any_of(kMagics, [&](const Magic& magic) {
    return head.size() >= magic.offset + magic.bytes.size() &&
           as_text(head.subspan(magic.offset, magic.bytes.size())) == magic.bytes;
  });
}

Result<ImageFileInfo> probe_image(const std::string& source) {
  TRY_ASSIGN(const std::string output,
             run_program({"qemu-img", "info", "--output=json", source}, "qemu-utils"));
  boost::system::error_code error;
  const json::value value = json::parse(output, error);
  const json::object* object = error ? nullptr : value.if_object();
  const auto text = [&](std::string_view name) -> std::string {
    const json::value* field = object->if_contains(name);
    return field != nullptr && field->is_string() ? std::string(field->get_string()) : "";
  };
  if (object == nullptr || text("format").empty()) {
    return fail(ErrorKind::kInternal, "cannot understand what qemu-img info says of {}", source);
  }
  return ImageFileInfo{text("format"), text("backing-filename")};
}

}  // namespace squall
