// The C interface from outside, through the shared library: what a caller may
// do wrong is answered with a code, and memory is never touched for it.

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "client/native/shardwright_region.h"
#include "client/native/shardwright_service.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kLayout[] = R"(
name: vlm-8
world_size: 8
modules:
- {name: images, role: ENCODER, first_rank: 0, rank_count: 4,
   parallelism: {tp: 2}}
- {name: language, role: LANGUAGE, first_rank: 4, rank_count: 4,
   parallelism: {cp: 2, pp: 2}}
edges:
- {from: images, to: language}
)";

using Job = std::unique_ptr<sw_job, decltype(&sw_job_destroy)>;
using Plan = std::unique_ptr<sw_plan, decltype(&sw_plan_destroy)>;

Job ReadJob() {
  sw_job* job = nullptr;
  EXPECT_EQ(sw_job_read(kLayout, "layout.yaml", &job), SW_OK)
      << sw_last_error();
  return Job(job, &sw_job_destroy);
}

Plan PlanShard(const sw_job* job, int64_t rank) {
  sw_batch_shape shape = {};
  shape.seq_length = 8;
  shape.micro_batch_size = 1;
  sw_plan* plan = nullptr;
  EXPECT_EQ(sw_plan_shard(job, rank, &shape, &plan), SW_OK) << sw_last_error();
  return Plan(plan, &sw_plan_destroy);
}

// One sample: five tokens of text, three of images.
struct Batch {
  std::vector<int64_t> ids = {7, 501, 501, 8, 9, 501, 9, 9};
  std::vector<int64_t> lengths = {8};
  sw_named_value image_id = {"images", 501};
  sw_batch value = {};

  Batch() {
    value.micro_batch_size = 1;
    value.seq_length = 8;
    value.input_ids = ids.data();
    value.sample_lengths = lengths.data();
    value.sample_count = 1;
    value.special_token_ids = &image_id;
    value.special_token_id_count = 1;
  }
};

sw_buffer BufferOf(std::vector<char>& bytes) {
  return {bytes.data(), static_cast<int64_t>(bytes.size())};
}

std::string TakeText(char* text) {
  std::string copy = text;
  sw_free(text);
  return copy;
}

class NativeTest : public ::testing::Test {
 protected:
  // Global rank 4 is cp 0 of stage 0, rank 6 cp 0 of stage 1.
  Job job_ = ReadJob();
  Plan plan_ = PlanShard(job_.get(), 4);
};

TEST_F(NativeTest, AbiVersionIsThatOfTheHeader) {
  EXPECT_EQ(sw_abi_version(), SW_ABI_VERSION);
}

TEST_F(NativeTest, RanksAndGroupsComeAsJson) {
  char* text = nullptr;
  ASSERT_EQ(sw_job_explain_rank(job_.get(), 5, &text), SW_OK);
  const auto rank = nlohmann::json::parse(TakeText(text));
  EXPECT_EQ(rank["module"], "language");
  EXPECT_EQ(rank["coordinates"]["cp"], 1);

  ASSERT_EQ(sw_job_groups(job_.get(), &text), SW_OK);
  const auto groups = nlohmann::json::parse(TakeText(text));
  EXPECT_EQ(groups["modules"][1]["groups"]["pp"].dump(), "[[4,6],[5,7]]");
}

TEST_F(NativeTest, TableSaysWhereEveryRowComesFrom) {
  sw_table table;
  ASSERT_EQ(sw_plan_get_table(plan_.get(), SW_EMBEDDINGS, &table), SW_OK);
  ASSERT_EQ(table.entry_count, 2);
  EXPECT_EQ(table.entries[1].source_row, 6);
  EXPECT_EQ(table.entries[1].destination_row, 2);
  EXPECT_EQ(table.entries[1].row_count, 2);
  ASSERT_EQ(table.source_count, 1);
  EXPECT_STREQ(table.source_names[0], "sequence");
  EXPECT_EQ(table.source_rows[0], 8);
  EXPECT_EQ(table.destination_rows, 4);
  EXPECT_EQ(table.is_view, 0);
  ASSERT_EQ(table.run_count, 2);
  EXPECT_EQ(table.runs[1].position, 6);
}

TEST_F(NativeTest, InfoAndJsonAgree) {
  sw_plan_info info;
  ASSERT_EQ(sw_plan_get_info(plan_.get(), &info), SW_OK);
  EXPECT_EQ(info.rank, 4);
  EXPECT_EQ(info.generation, 0);
  EXPECT_EQ(info.token_count, 4);
  char* text = nullptr;
  ASSERT_EQ(sw_plan_json(plan_.get(), /*with_positions=*/1, &text), SW_OK);
  const auto json = nlohmann::json::parse(TakeText(text));
  EXPECT_EQ(std::stoull(json["digest"].get<std::string>(), nullptr, 16),
            info.digest);
  EXPECT_EQ(json["ranks"][0]["embedding_positions"].dump(), "[0,1,6,7]");
}

TEST_F(NativeTest, AdjointOfRunIsTheIdentityOnOwnedRows) {
  std::vector<char> source = {10, 11, 12, 13, 14, 15, 16, 17};
  std::vector<char> shard(4, -1);
  sw_buffer from = BufferOf(source);
  ASSERT_EQ(sw_plan_run(plan_.get(), SW_EMBEDDINGS, 1, &from, 1,
                        BufferOf(shard), nullptr, 0),
            SW_OK)
      << sw_last_error();
  EXPECT_THAT(shard, ElementsAre(10, 11, 16, 17));

  std::vector<char> back(8, -1);
  sw_buffer to = BufferOf(back);
  ASSERT_EQ(sw_plan_run_adjoint(plan_.get(), SW_EMBEDDINGS, 1, BufferOf(shard),
                                &to, 1),
            SW_OK)
      << sw_last_error();
  EXPECT_THAT(back, ElementsAre(10, 11, 0, 0, 0, 0, 16, 17));
}

TEST_F(NativeTest, ComposeTakesRowsOfEverySource) {
  Batch batch;
  sw_plan* composed = nullptr;
  ASSERT_EQ(sw_plan_compose(job_.get(), 4, &batch.value, &composed), SW_OK)
      << sw_last_error();
  const Plan plan(composed, &sw_plan_destroy);
  std::vector<char> text = {1, 2, 3, 4, 5};
  std::vector<char> images = {101, 102, 103};
  std::vector<char> shard(4, -1);
  sw_buffer sources[] = {BufferOf(text), BufferOf(images)};
  ASSERT_EQ(sw_plan_run(plan.get(), SW_EMBEDDINGS, 1, sources, 2,
                        BufferOf(shard), nullptr, 0),
            SW_OK)
      << sw_last_error();
  EXPECT_THAT(shard, ElementsAre(1, 101, 4, 5));
}

TEST_F(NativeTest, LaterStageHasLabelsOnly) {
  const Plan later = PlanShard(job_.get(), 6);
  sw_table table;
  EXPECT_EQ(sw_plan_get_table(later.get(), SW_EMBEDDINGS, &table),
            SW_NOT_FOUND);
  EXPECT_STREQ(sw_last_error_reason(), "NO_EMBEDDINGS");
  EXPECT_EQ(sw_plan_get_table(later.get(), SW_LABELS, &table), SW_OK);
}

TEST_F(NativeTest, BadLayoutSaysWhereAndWhy) {
  sw_job* job = nullptr;
  EXPECT_EQ(sw_job_read("name: x\nworld_sise: 8\n", "bad.yaml", &job),
            SW_INVALID_ARGUMENT);
  EXPECT_EQ(job, nullptr);
  EXPECT_STREQ(sw_last_error_reason(), "INVALID_LAYOUT");
  EXPECT_THAT(sw_last_error(), HasSubstr("bad.yaml:2"));
  EXPECT_FALSE(
      nlohmann::json::parse(sw_last_error_details())["violations"].empty());
}

TEST_F(NativeTest, LastErrorBelongsToItsThread) {
  sw_job* job = nullptr;
  ASSERT_NE(sw_job_read(nullptr, "x", &job), SW_OK);
  std::string other = "unset";
  std::thread([&] { other = sw_last_error(); }).join();
  EXPECT_EQ(other, "");
  EXPECT_THAT(sw_last_error(), HasSubstr("text is NULL"));
}

TEST_F(NativeTest, DestroyingNullIsAllowed) {
  sw_job_destroy(nullptr);
  sw_plan_destroy(nullptr);
  sw_member_destroy(nullptr);
  sw_worker_destroy(nullptr);
  sw_session_destroy(nullptr);
  sw_free(nullptr);
}

TEST_F(NativeTest, EveryNullIsAnErrorAndNotACrash) {
  sw_job* job = nullptr;
  sw_plan* plan = nullptr;
  sw_member* member = nullptr;
  sw_worker* worker = nullptr;
  sw_session* session = nullptr;
  sw_batch_shape shape = {};
  Batch batch;
  char* text = nullptr;
  int64_t region = 0;
  const sw_buffer buffer = {};
  const sw_code codes[] = {
      sw_job_connect(nullptr, "j", 0, &job),
      sw_job_connect("a:1", nullptr, 0, &job),
      sw_job_connect("a:1", "j", 0, nullptr),
      sw_job_read(kLayout, nullptr, &job),
      sw_job_read(kLayout, "x", nullptr),
      sw_job_explain_rank(nullptr, 0, &text),
      sw_job_explain_rank(job_.get(), 0, nullptr),
      sw_job_groups(nullptr, &text),
      sw_plan_shard(nullptr, 4, &shape, &plan),
      sw_plan_shard(job_.get(), 4, nullptr, &plan),
      sw_plan_shard(job_.get(), 4, &shape, nullptr),
      sw_plan_compose(nullptr, 4, &batch.value, &plan),
      sw_plan_compose(job_.get(), 4, nullptr, &plan),
      sw_plan_get_info(plan_.get(), nullptr),
      sw_plan_json(plan_.get(), 0, nullptr),
      sw_plan_get_table(nullptr, SW_LABELS, nullptr),
      sw_plan_run(nullptr, SW_LABELS, 1, &buffer, 1, buffer, nullptr, 0),
      sw_plan_run(plan_.get(), SW_LABELS, 1, nullptr, 1, buffer, nullptr, 0),
      sw_plan_run_adjoint(plan_.get(), SW_LABELS, 1, buffer, nullptr, 1),
      sw_member_join(nullptr, 4, 0, &member),
      sw_member_leave(nullptr),
      sw_member_check(nullptr),
      sw_member_set_phase(nullptr, "x"),
      sw_member_get_generation(nullptr, nullptr),
      sw_member_get_incarnation(nullptr, nullptr),
      sw_member_wait(nullptr, "x", 0, "", 0, 0),
      sw_worker_connect(nullptr, 0, &worker),
      sw_worker_describe(nullptr, &text),
      sw_session_open(nullptr, nullptr, 0, &session),
      sw_session_run(nullptr, nullptr, 0, nullptr),
      sw_session_gather(nullptr, "tp", nullptr, nullptr),
      sw_session_open_gpu(nullptr, nullptr, 0, 0, 0, &session),
      sw_session_get_order(nullptr, &text),
      sw_session_check(nullptr),
      sw_session_register_region(nullptr, &buffer, 1, &region),
      sw_session_unregister_region(nullptr, 0),
      sw_session_run_regions(nullptr, nullptr, 0, nullptr, nullptr),
  };
  for (size_t i = 0; i < std::size(codes); ++i) {
    EXPECT_EQ(codes[i], SW_INVALID_ARGUMENT) << "call " << i;
  }
  EXPECT_STREQ(sw_last_error_reason(), "NULL_ARGUMENT");
}

// Members and sessions need servers: tests/integration/python_client_test.py.
TEST_F(NativeTest, HandlesThatWereDestroyedAreRefused) {
  const auto expect_refused = [](sw_code code, const std::string& name) {
    EXPECT_EQ(code, SW_INVALID_ARGUMENT) << name;
    EXPECT_STREQ(sw_last_error_reason(), "FREED_HANDLE") << name;
    EXPECT_THAT(sw_last_error(), HasSubstr(name));
  };
  char* text = nullptr;
  sw_plan* const plan = plan_.release();
  sw_plan_destroy(plan);
  sw_plan_info info;
  sw_table table;
  const sw_buffer buffer = {};
  expect_refused(sw_plan_get_info(plan, &info), "plan");
  expect_refused(sw_plan_json(plan, 0, &text), "plan");
  expect_refused(sw_plan_get_table(plan, SW_LABELS, &table), "plan");
  expect_refused(
      sw_plan_run(plan, SW_LABELS, 1, &buffer, 1, buffer, nullptr, 0), "plan");
  expect_refused(sw_plan_run_adjoint(plan, SW_LABELS, 1, buffer, &buffer, 1),
                 "plan");

  sw_job* const job = job_.release();
  sw_job_destroy(job);
  Batch batch;
  const sw_batch_shape shape = {};
  sw_plan* made = nullptr;
  sw_member* member = nullptr;
  expect_refused(sw_job_explain_rank(job, 4, &text), "job");
  expect_refused(sw_job_groups(job, &text), "job");
  expect_refused(sw_plan_shard(job, 4, &shape, &made), "job");
  expect_refused(sw_plan_compose(job, 4, &batch.value, &made), "job");
  expect_refused(sw_member_join(job, 4, 0, &member), "job");

  sw_worker* worker = nullptr;
  ASSERT_EQ(sw_worker_connect("127.0.0.1:1", 1000, &worker), SW_OK);
  sw_worker_destroy(worker);
  sw_session* session = nullptr;
  expect_refused(sw_worker_describe(worker, &text), "worker");
  expect_refused(sw_session_open(worker, nullptr, 0, &session), "worker");
  expect_refused(sw_session_open_gpu(worker, nullptr, 0, 0, 0, &session),
                 "worker");
}

TEST_F(NativeTest, BuffersThatDoNotFitAreRefusedUntouched) {
  std::vector<char> source(8, 1);
  std::vector<char> shard(4, -1);
  std::vector<char> too_short(3, -1);
  sw_buffer from = BufferOf(source);
  sw_buffer short_from = {source.data(), 7};
  sw_buffer negative = {source.data(), -8};
  sw_buffer null = {nullptr, 8};
  sw_buffer two[] = {from, from};
  const auto run = [&](int64_t row_bytes, const sw_buffer* sources,
                       int64_t count, sw_buffer destination,
                       int64_t fill_bytes) {
    return sw_plan_run(plan_.get(), SW_EMBEDDINGS, row_bytes, sources, count,
                       destination, "fill", fill_bytes);
  };
  EXPECT_EQ(run(1, &from, 1, BufferOf(too_short), 1), SW_INVALID_ARGUMENT);
  EXPECT_STREQ(sw_last_error_reason(), "INVALID_TENSOR");
  EXPECT_EQ(run(1, &short_from, 1, BufferOf(shard), 1), SW_INVALID_ARGUMENT);
  EXPECT_EQ(run(1, &negative, 1, BufferOf(shard), 1), SW_INVALID_ARGUMENT);
  EXPECT_EQ(run(1, &null, 1, BufferOf(shard), 1), SW_INVALID_ARGUMENT);
  EXPECT_EQ(run(1, two, 2, BufferOf(shard), 1), SW_INVALID_ARGUMENT);
  EXPECT_EQ(run(1, two, 17, BufferOf(shard), 1), SW_INVALID_ARGUMENT);
  EXPECT_EQ(run(1, two, -1, BufferOf(shard), 1), SW_INVALID_ARGUMENT);
  EXPECT_EQ(run(0, &from, 1, BufferOf(shard), 0), SW_INVALID_ARGUMENT);
  EXPECT_EQ(run(-1, &from, 1, BufferOf(shard), 0), SW_INVALID_ARGUMENT);
  EXPECT_EQ(run(INT64_MAX, &from, 1, BufferOf(shard), 0), SW_INVALID_ARGUMENT);
  EXPECT_EQ(run(1, &from, 1, BufferOf(shard), 2), SW_INVALID_ARGUMENT);
  EXPECT_EQ(run(1, &from, 1, BufferOf(shard), -1), SW_INVALID_ARGUMENT);
  EXPECT_THAT(shard, ElementsAre(-1, -1, -1, -1));
  EXPECT_THAT(too_short, ElementsAre(-1, -1, -1));
}

TEST_F(NativeTest, UnknownTableIsRefused) {
  sw_table table;
  EXPECT_EQ(sw_plan_get_table(plan_.get(), /*id=*/2, &table),
            SW_INVALID_ARGUMENT);
  EXPECT_STREQ(sw_last_error_reason(), "INVALID_TABLE_ID");
}

TEST_F(NativeTest, CountsOutOfRangeAreRefusedBeforeMemoryIsRead) {
  sw_plan* plan = nullptr;
  sw_batch_shape shape = {};
  shape.seq_length = 8;
  shape.micro_batch_size = 1;
  shape.cu_seqlens_padded_count = -1;
  EXPECT_EQ(sw_plan_shard(job_.get(), 4, &shape, &plan), SW_INVALID_ARGUMENT);
  EXPECT_STREQ(sw_last_error_reason(), "INVALID_COUNT");
  shape.cu_seqlens_padded_count = 2;
  EXPECT_EQ(sw_plan_shard(job_.get(), 4, &shape, &plan), SW_INVALID_ARGUMENT);
  EXPECT_STREQ(sw_last_error_reason(), "NULL_ARGUMENT");

  Batch batch;
  batch.lengths[0] = -8;
  EXPECT_EQ(sw_plan_compose(job_.get(), 4, &batch.value, &plan),
            SW_INVALID_ARGUMENT);
  batch.lengths[0] = INT64_MAX;
  EXPECT_EQ(sw_plan_compose(job_.get(), 4, &batch.value, &plan),
            SW_INVALID_ARGUMENT);
  Batch nameless;
  nameless.image_id.name = nullptr;
  EXPECT_EQ(sw_plan_compose(job_.get(), 4, &nameless.value, &plan),
            SW_INVALID_ARGUMENT);
  EXPECT_EQ(plan, nullptr);
}

TEST_F(NativeTest, CountsAndEncoderRowsReachTheCheck) {
  const auto refusal = [&](const Batch& batch) -> std::string {
    sw_plan* plan = nullptr;
    if (sw_plan_compose(job_.get(), 4, &batch.value, &plan) == SW_OK) {
      sw_plan_destroy(plan);
      return "";
    }
    EXPECT_STREQ(sw_last_error_reason(), "INVALID_BATCH");
    return sw_last_error();
  };
  Batch batch;
  sw_named_value counts[] = {{"text", 5}, {"images", 3}};
  batch.value.counts = counts;
  batch.value.count_count = 2;
  EXPECT_EQ(refusal(batch), "");
  counts[0].value = 4;
  EXPECT_THAT(refusal(batch), HasSubstr("counts.text"));
  counts[0].value = 5;
  counts[1].value = -1;
  EXPECT_THAT(refusal(batch), HasSubstr("-1"));
  counts[1].name = "text";
  EXPECT_THAT(refusal(batch), HasSubstr("'text' is named twice"));

  Batch split;
  const int64_t lanes[] = {2, 1};
  sw_encoder_rows rows = {"images", lanes, 2};
  split.value.encoder_rows = &rows;
  split.value.encoder_rows_count = 1;
  EXPECT_EQ(refusal(split), "");
  rows.lane_count = 0;
  EXPECT_THAT(refusal(split), HasSubstr("encoder_rows.images"));
}

TEST_F(NativeTest, OnlyJobsOfACoordinatorHaveMembers) {
  sw_member* member = nullptr;
  EXPECT_EQ(sw_member_join(job_.get(), 4, 0, &member), SW_INVALID_ARGUMENT);
  EXPECT_STREQ(sw_last_error_reason(), "OFFLINE_JOB");
}

TEST_F(NativeTest, UnreachableServersAreNamed) {
  sw_job* job = nullptr;
  ASSERT_EQ(sw_job_connect("127.0.0.1:1", "vlm-8", 0, &job), SW_OK);
  const Job owner(job, &sw_job_destroy);
  char* text = nullptr;
  EXPECT_EQ(sw_job_explain_rank(job, 4, &text), SW_UNAVAILABLE);
  EXPECT_STREQ(sw_last_error_reason(), "UNREACHABLE");
  EXPECT_THAT(sw_last_error(), HasSubstr("127.0.0.1:1"));

  sw_worker* worker = nullptr;
  ASSERT_EQ(sw_worker_connect("127.0.0.1:1", 1000, &worker), SW_OK);
  sw_session* session = nullptr;
  const sw_segment segment = {"/shardwright-test", 8};
  EXPECT_EQ(sw_session_open(worker, &segment, 1, &session), SW_UNAVAILABLE);
  EXPECT_EQ(session, nullptr);
  sw_worker_destroy(worker);
}

}  // namespace
