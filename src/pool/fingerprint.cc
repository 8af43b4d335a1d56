// The algorithm is fetched once: OpenSSL 3 looks it up by name in every one-shot call, which costs
// a third of what hashing a block does.
#include "pool/fingerprint.h"

#include <openssl/evp.h>

#include <algorithm>

#include "base/check.h"

namespace squall {

struct Fingerprinter::Context {
  EVP_MD* sha256 = EVP_MD_fetch(nullptr, "SHA256", nullptr);
  EVP_MD_CTX* state = EVP_MD_CTX_new();

  Context() { CHECK(sha256 != nullptr && state != nullptr); }
  ~Context() {
    EVP_MD_CTX_free(state);
    EVP_MD_free(sha256);
  }
};

Fingerprinter::Fingerprinter() : context_(std::make_unique<Context>()) {}
Fingerprinter::~Fingerprinter() = default;

Fingerprint Fingerprinter::operator()(ConstBytes block) {
  CHECK(block.size() == kBlockBytes);
  std::array<std::byte, EVP_MAX_MD_SIZE> digest;
  CHECK(EVP_DigestInit_ex2(context_->state, context_->sha256, nullptr) == 1 &&
        EVP_DigestUpdate(context_->state, block.data(), block.size()) == 1 &&
        EVP_DigestFinal_ex(context_->state, reinterpret_cast<unsigned char*>(digest.data()),
                           nullptr) == 1);
  Fingerprint fingerprint;
  std::copy_n(digest.begin(), fingerprint.size(), fingerprint.begin());
  return fingerprint;
}

void Fingerprinter::append(ConstBytes payload, std::vector<Fingerprint>& to) {
  for (; payload.size() >= kBlockBytes; payload = payload.subspan(kBlockBytes))
    to.push_back((*this)(payload.first(kBlockBytes)));
}

}  // namespace squall
