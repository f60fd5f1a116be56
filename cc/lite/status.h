// Success or a message, for code that depends on the C++ standard library only.
#ifndef TFCONV_LITE_STATUS_H_
#define TFCONV_LITE_STATUS_H_

#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace tfconv {
namespace lite {

class Status {
 public:
  Status() = default;  // success
  explicit Status(std::string message) : ok_(false), message_(std::move(message)) {}

  bool ok() const { return ok_; }
  const std::string& message() const { return message_; }

 private:
  bool ok_ = true;
  std::string message_;
};

// "[1,2,3]".
template <typename T>
std::ostream& operator<<(std::ostream& out, const std::vector<T>& values) {
  out << '[';
  for (size_t i = 0; i < values.size(); ++i) out << (i == 0 ? "" : ",") << values[i];
  return out << ']';
}

// Its message is that of all `parts` in a row.
template <typename... Parts>
Status Error(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  return Status(message.str());
}

}  // namespace lite
}  // namespace tfconv

#endif  // TFCONV_LITE_STATUS_H_
