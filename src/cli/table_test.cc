#include "cli/table.h"

#include <gtest/gtest.h>

namespace squall {
namespace {

TEST(Table, AlignsColumns) {
  Table table({"NAME", ">SIZE", "SOURCE"});
  table.add({"a", "10G", "x"});
  table.add({"a-longer-name", "4K", ""});
  EXPECT_EQ(table.to_string(),
            "NAME           SIZE  SOURCE\n"
            "a               10G  x\n"
            "a-longer-name    4K  -\n");
}

TEST(Table, AnEmptyOneHasItsHeader) {
  EXPECT_EQ(Table({"A", "B"}).to_string(), "A  B\n");
}

TEST(FieldList, AlignsValues) {
  FieldList fields;
  fields.add("name", "v");
  fields.add("snapshots", "");
  EXPECT_EQ(fields.to_string(), "name       v\nsnapshots  -\n");
}

}  // namespace
}  // namespace squall
