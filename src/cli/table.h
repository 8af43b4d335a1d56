// An aligned table for people: a header in capitals, columns two spaces apart. Plain value.
#pragma once

#include <string>
#include <vector>

namespace squall {

class Table {
 public:
  // A column whose name starts with '>' is aligned to the right (numbers); the '>' is not shown.
  explicit Table(std::vector<std::string> columns);
  void add(std::vector<std::string> cells);
  // With the header even when there are no rows; ends with a newline.
  std::string to_string() const;

 private:
  std::vector<bool> right_;
  std::vector<std::vector<std::string>> rows_;
};

// "name   value" lines, for the show verbs.
class FieldList {
 public:
  void add(std::string name, std::string value);
  std::string to_string() const;

 private:
  std::vector<std::pair<std::string, std::string>> fields_;
};

}  // namespace squall
