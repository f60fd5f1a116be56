// What TF Serving does with a model, without TF Serving: loads versions with TensorFlow's loader
// of SavedModels, replays the requests to warm up with, answers requests in many threads, and
// loads a new version while the old one answers.
//
//   loader OLD_VERSION NEW_VERSION ANSWERS [LIBRARY | --without-xla]
//
// The answers to the warm-up requests of both versions go into the file ANSWERS, as TFRecords of
// TensorProtos. The threads ask the same requests and hold every answer against these. LIBRARY has
// ops for TF_LoadLibrary; without XLA, it is as the server without its flag for it. One line of JSON goes to standard output.

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "tensorflow/c/c_api.h"
#include "tensorflow/cc/saved_model/loader.h"
#include "tensorflow/compiler/jit/flags.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/framework/tensor.pb.h"
#include "tensorflow/core/lib/io/record_reader.h"
#include "tensorflow/core/lib/io/record_writer.h"
#include "tensorflow/core/platform/env.h"
#include "tensorflow/core/public/session.h"

namespace {

constexpr int kThreads = 8;
// Answers of one version that each thread waits for.
constexpr int kEnough = 25;
constexpr float kTolerance = 1e-5f;

[[noreturn]] void Fail(const std::string& message) {
  std::cerr << message << std::endl;
  std::_Exit(1);
}

template <typename Status>
void Check(const std::string& what, const Status& status) {
  if (!status.ok()) Fail(what + " failed: " + status.ToString());
}

// A request as the session takes it.
struct Request {
  std::vector<std::pair<std::string, tensorflow::Tensor>> inputs;
  std::vector<std::string> outputs;
};

// The fields of a serialized message that hold bytes, by their numbers. The wheels of TensorFlow
// do not have TF Serving's messages.
std::multimap<int, std::string_view> Fields(std::string_view message) {
  std::multimap<int, std::string_view> fields;
  auto varint = [&message] {
    uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      if (message.empty() || shift > 63) Fail("A request is cut off.");
      const uint8_t byte = message.front();
      message.remove_prefix(1);
      value |= uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return value;
    }
  };
  while (!message.empty()) {
    const uint64_t key = varint();
    const uint64_t length = varint();
    if ((key & 7) == 0) continue;  // a number
    if ((key & 7) != 2 || length > message.size()) Fail("A request cannot be read.");
    fields.emplace(static_cast<int>(key >> 3), message.substr(0, length));
    message.remove_prefix(length);
  }
  return fields;
}

std::string_view Field(const std::multimap<int, std::string_view>& fields, int number) {
  const auto found = fields.find(number);
  return found == fields.end() ? std::string_view() : found->second;
}

// Of a PredictionLog, for the signature that it names.
Request ReadRequest(std::string_view log, const tensorflow::SavedModelBundle& bundle) {
  const auto request = Fields(Field(Fields(Field(Fields(log), 6)), 1));
  const std::string name(Field(Fields(Field(request, 1)), 3));
  const auto signature = bundle.GetSignatures().find(name);
  if (signature == bundle.GetSignatures().end()) Fail("There is no signature " + name);
  Request read;
  const auto inputs = request.equal_range(2);
  for (auto input = inputs.first; input != inputs.second; ++input) {
    const auto entry = Fields(input->second);
    const auto info = signature->second.inputs().find(std::string(Field(entry, 1)));
    if (info == signature->second.inputs().end()) Fail("There is no such input.");
    tensorflow::TensorProto proto;
    tensorflow::Tensor tensor;
    if (!proto.ParseFromString(std::string(Field(entry, 2))) || !tensor.FromProto(proto)) {
      Fail("A request holds no tensor.");
    }
    read.inputs.emplace_back(info->second.name(), tensor);
  }
  std::map<std::string, std::string> sorted;  // so that answers have a known order
  for (const auto& output : signature->second.outputs()) {
    sorted[output.first] = output.second.name();
  }
  for (const auto& output : sorted) read.outputs.push_back(output.second);
  return read;
}

// A version of the model that is ready to answer.
class Version {
 public:
  explicit Version(const std::string& path) {
    Check("loading " + path,
          tensorflow::LoadSavedModel(tensorflow::SessionOptions(), tensorflow::RunOptions(), path,
                                     {"serve"}, &bundle_));
    std::unique_ptr<tensorflow::RandomAccessFile> file;
    Check("opening the warm-up requests",
          tensorflow::Env::Default()->NewRandomAccessFile(
              path + "/assets.extra/tf_serving_warmup_requests", &file));
    tensorflow::io::SequentialRecordReader reader(file.get());
    tensorflow::tstring log;
    while (reader.ReadRecord(&log).ok()) {
      requests_.push_back(ReadRequest(std::string_view(log.data(), log.size()), bundle_));
      answers_.push_back(Run(requests_.back()));
    }
    if (requests_.empty()) Fail("There are no warm-up requests.");
  }

  const std::vector<std::vector<tensorflow::Tensor>>& answers() const { return answers_; }

  // Asks a request again: the same answer must come.
  void Ask(size_t number) const {
    const size_t index = number % requests_.size();
    const auto outputs = Run(requests_[index]);
    for (size_t i = 0; i < outputs.size(); ++i) {
      const auto values = outputs[i].flat<float>();
      const auto expected = answers_[index][i].flat<float>();
      if (values.size() != expected.size()) Fail("An answer has another size.");
      for (int64_t j = 0; j < values.size(); ++j) {
        if (!(std::abs(values(j) - expected(j)) <= kTolerance)) Fail("An answer differs.");
      }
    }
  }

 private:
  std::vector<tensorflow::Tensor> Run(const Request& request) const {
    std::vector<tensorflow::Tensor> outputs;
    Check("a request", bundle_.GetSession()->Run(request.inputs, request.outputs, {}, &outputs));
    return outputs;
  }

  tensorflow::SavedModelBundle bundle_;
  std::vector<Request> requests_;
  std::vector<std::vector<tensorflow::Tensor>> answers_;
};

// The version that answers now, and how often each has.
class Server {
 public:
  explicit Server(std::shared_ptr<const Version> version) : version_(std::move(version)) {
    for (int i = 0; i < kThreads; ++i) threads_.emplace_back([this] { Loop(); });
  }

  // Waits until every thread has been answered by the present version, and returns how many
  // answers that version gave.
  int64_t Wait() const {
    while (answered_ < kThreads * kEnough) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return answered_;
  }

  int64_t answered() const { return answered_; }

  void Replace(std::shared_ptr<const Version> version) {
    std::lock_guard<std::mutex> lock(mutex_);
    version_ = std::move(version);
    answered_ = 0;
  }

  void Stop() {
    stop_ = true;
    for (auto& thread : threads_) thread.join();
  }

 private:
  void Loop() {
    for (size_t number = 0; !stop_; ++number) {
      const auto version = Current();
      version->Ask(number);
      // Answers that an old version still gives count for none.
      if (version == Current()) ++answered_;
    }
  }

  std::shared_ptr<const Version> Current() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return version_;
  }

  mutable std::mutex mutex_;
  std::shared_ptr<const Version> version_;
  std::atomic<int64_t> answered_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_;
};

void Write(const Version& version, tensorflow::io::RecordWriter& writer) {
  for (const auto& answer : version.answers()) {
    for (const auto& tensor : answer) {
      tensorflow::TensorProto proto;
      tensor.AsProtoTensorContent(&proto);
      Check("writing an answer", writer.WriteRecord(proto.SerializeAsString()));
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4 && argc != 5) {
    Fail("usage: loader OLD_VERSION NEW_VERSION ANSWERS [LIBRARY | --without-xla]");
  }
  if (argc == 5 && std::string_view(argv[4]) == "--without-xla") {
    tensorflow::DisableXlaCompilation();
  } else if (argc == 5) {
    TF_Status* status = TF_NewStatus();
    TF_LoadLibrary(argv[4], status);
    if (TF_GetCode(status) != TF_OK) Fail(TF_Message(status));
    TF_DeleteStatus(status);
  }
  auto old_version = std::make_shared<const Version>(argv[1]);
  Server server(old_version);
  const int64_t before = server.Wait();
  const auto new_version = std::make_shared<const Version>(argv[2]);
  const int64_t old_answers = server.answered();
  server.Replace(new_version);
  const int64_t new_answers = server.Wait();
  server.Stop();

  std::unique_ptr<tensorflow::WritableFile> file;
  Check("opening the file for answers",
        tensorflow::Env::Default()->NewWritableFile(argv[3], &file));
  tensorflow::io::RecordWriter writer(file.get());
  Write(*old_version, writer);
  Write(*new_version, writer);
  Check("writing the answers", writer.Close());
  Check("writing the answers", file->Close());
  std::cout << "{\"threads\": " << kThreads << ", \"requests\": " << new_version->answers().size()
            << ", \"old_answers\": " << old_answers
            << ", \"while_loading\": " << old_answers - before
            << ", \"new_answers\": " << new_answers
            << ", \"users_of_old\": " << old_version.use_count() << "}" << std::endl;
}
