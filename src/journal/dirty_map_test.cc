// DirtyMap against the plainest model there is: for every byte the sequence that wrote it, whether
// it is zero, and where its content lies.
#include "journal/dirty_map.h"

#include <gtest/gtest.h>

#include <array>

#include "base/random.h"

namespace squall {
namespace {

using journal_format::RecordType;

constexpr uint64_t kSize = 600;

struct ModelByte {
  uint64_t sequence = 0;  // 0: nothing
  bool zero = false;
  JournalFile* file = nullptr;
  uint64_t position = 0;
  bool operator==(const ModelByte&) const = default;
};
using Model = std::array<ModelByte, kSize>;

struct Known {
  JournalRecord record;
  JournalPlace place;
};

class DirtyMapCampaign {
 public:
  explicit DirtyMapCampaign(uint64_t seed) : random_(seed), files_(5) {}

  void run(int steps) {
    for (int i = 0; i < steps && !::testing::Test::HasFatalFailure(); ++i) {
      step();
      check(map_, model_);
      check(older_, older_model_);
      check_live();
    }
  }

 private:
  void step() {
    const uint64_t dice = random_.below(100);
    if (dice < 45) return insert(next_sequence_++);
    if (dice < 60) return insert_late();
    if (dice < 75) return relocate();
    if (dice < 90) return erase();
    if (dice < 94) return freeze();
    if (dice < 98) return merge();
    map_.clear();
    model_ = {};
  }

  std::pair<uint64_t, uint64_t> range() {
    const uint64_t begin = random_.below(kSize);
    return {begin, std::min(kSize, begin + random_.below(random_.chance(0.2) ? 200 : 25))};
  }

  void insert(uint64_t sequence) {
    const auto [begin, end] = range();
    Known known;
    known.record.type = random_.chance(0.25) ? RecordType::kZero : RecordType::kWrite;
    known.record.sequence = sequence;
    known.record.offset = begin;
    known.record.length = end - begin;
    known.place = {&files_[random_.below(files_.size())], random_.below(1'000'000)};
    insert_known(known);
    known_.push_back(known);
  }

  // Start-up may bring records in any order of sequences: an older one never covers a newer one.
  void insert_late() {
    if (next_sequence_ < 3) return;
    next_sequence_ += 2;
    insert(next_sequence_ - 1);
    insert(next_sequence_ - 2);
  }

  void insert_known(const Known& known) {
    map_.insert(known.record, known.place);
    const bool zero = known.record.type == RecordType::kZero;
    for (uint64_t i = 0; i < known.record.length; ++i) {
      ModelByte& byte = model_[known.record.offset + i];
      if (byte.sequence > known.record.sequence) continue;
      byte = {known.record.sequence, zero, known.place.file,
              zero ? known.place.position : known.place.position + i};
    }
  }

  void relocate() {
    if (known_.empty()) return;
    Known& known = known_[random_.below(known_.size())];
    known.place = {&files_[random_.below(files_.size())], random_.below(1'000'000)};
    map_.relocate(known.record, known.place);
    older_.relocate(known.record, known.place);
    for (Model* model : {&model_, &older_model_}) {
      for (uint64_t i = 0; i < known.record.length; ++i) {
        ModelByte& byte = (*model)[known.record.offset + i];
        if (byte.sequence != known.record.sequence) continue;
        byte.file = known.place.file;
        byte.position = byte.zero ? known.place.position : known.place.position + i;
      }
    }
  }

  void erase() {
    const auto [begin, end] = range();
    map_.erase(begin, end);
    for (uint64_t i = begin; i < end; ++i) model_[i] = {};
  }

  void freeze() {
    if (!older_.empty()) return;
    older_.swap(map_);
    std::swap(older_model_, model_);
  }

  void merge() {
    map_.merge_under(older_);
    EXPECT_TRUE(older_.empty());
    for (uint64_t i = 0; i < kSize; ++i)
      if (model_[i].sequence == 0) model_[i] = older_model_[i];
    older_model_ = {};
  }

  void check(const DirtyMap& map, const Model& model) {
    const auto [begin, end] =
        random_.chance(0.5) ? std::pair<uint64_t, uint64_t>{0, kSize} : range();
    uint64_t at = begin;
    map.visit(begin, end, [&](const DirtyMap::Piece& piece) {
      ASSERT_EQ(piece.begin, at);
      ASSERT_LT(piece.begin, piece.end);
      at = piece.end;
      for (uint64_t i = piece.begin; i < piece.end; ++i) {
        ModelByte got;
        if (piece.entry != nullptr) {
          got = {piece.entry->sequence, piece.entry->zero, piece.entry->place.file,
                 piece.entry->place.position};
          if (!got.zero) got.position += piece.skip + (i - piece.begin);
        }
        ModelByte expected = model[i];
        if (expected.zero) expected.position = got.position;  // only the file counts
        ASSERT_EQ(got, expected) << "byte " << i;
      }
    });
    ASSERT_EQ(at, end);
    uint64_t data = 0;
    for (const ModelByte& byte : model) data += byte.sequence != 0 && !byte.zero;
    ASSERT_EQ(map.data_bytes(), data);
    ASSERT_EQ(map.empty(), map.size() == 0);
  }

  void check_live() {
    std::map<const JournalFile*, uint64_t> counts;
    for (const DirtyMap* map : {&map_, &older_})
      for (const auto& [begin, entry] : map->entries()) ++counts[entry.place.file];
    for (const JournalFile& file : files_) ASSERT_EQ(file.live, counts[&file]);
  }

  Random random_;
  std::vector<JournalFile> files_;  // outlive the maps
  DirtyMap map_;
  DirtyMap older_;
  Model model_{};
  Model older_model_{};
  std::vector<Known> known_;
  uint64_t next_sequence_ = 1;
};

TEST(DirtyMap, MatchesAByteModel) {
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    DirtyMapCampaign(seed).run(400);
    if (HasFatalFailure()) return;
  }
}

TEST(DirtyMap, AnEmptyRecordLeavesNoEntry) {
  JournalFile file;
  DirtyMap map;
  map.insert({.type = RecordType::kWrite, .sequence = 1, .offset = 10}, {&file, 0});
  EXPECT_TRUE(map.empty());
  EXPECT_EQ(file.live, 0);
}

TEST(DirtyMap, MovingAMapMovesItsReferences) {
  JournalFile file;
  {
    DirtyMap map;
    map.insert({.type = RecordType::kWrite, .sequence = 1, .length = 8}, {&file, 0});
    DirtyMap other(std::move(map));
    EXPECT_EQ(file.live, 1);
    EXPECT_EQ(other.data_bytes(), 8);
  }
  EXPECT_EQ(file.live, 0);
}

}  // namespace
}  // namespace squall
