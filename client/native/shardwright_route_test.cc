// Routes of the C interface from outside, through the shared library.

#include "client/native/shardwright_route.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace {

using ::testing::HasSubstr;

constexpr char kLayout[] = R"(
name: vlm-4
world_size: 4
modules:
- {name: images, role: ENCODER, first_rank: 0, rank_count: 2}
- {name: language, role: LANGUAGE, first_rank: 2, rank_count: 2,
   parallelism: {cp: 2}}
edges:
- {from: images, to: language}
)";

using Job = std::unique_ptr<sw_job, decltype(&sw_job_destroy)>;
using Route = std::unique_ptr<sw_route, decltype(&sw_route_destroy)>;

class NativeRouteTest : public ::testing::Test {
 protected:
  NativeRouteTest() {
    sw_job* job = nullptr;
    EXPECT_EQ(sw_job_read(kLayout, "layout.yaml", &job), SW_OK)
        << sw_last_error();
    job_.reset(job);
    batch_.micro_batch_size = 1;
    batch_.seq_length = 8;
    batch_.input_ids = ids_.data();
    batch_.sample_lengths = &length_;
    batch_.sample_count = 1;
    batch_.special_token_ids = &image_id_;
    batch_.special_token_id_count = 1;
  }

  Route Plan(int64_t rank) {
    sw_route* route = nullptr;
    EXPECT_EQ(sw_plan_route(job_.get(), rank, &batch_, &route), SW_OK)
        << sw_last_error();
    return {route, &sw_route_destroy};
  }

  sw_route_info InfoOf(const Route& route) {
    sw_route_info info = {};
    EXPECT_EQ(sw_route_get_info(route.get(), &info), SW_OK);
    return info;
  }

  // One sample: five tokens of text, three of images. cp 0 has positions 0, 1,
  // 6 and 7.
  std::vector<int64_t> ids_ = {7, 501, 501, 8, 9, 501, 9, 9};
  int64_t length_ = 8;
  sw_named_value image_id_ = {"images", 501};
  sw_batch batch_ = {};
  Job job_{nullptr, &sw_job_destroy};
};

TEST_F(NativeRouteTest, AnEncoderRankBringsItsLanesOutput) {
  const Route route = Plan(0);  // The only sample is lane 0's.
  const sw_route_info info = InfoOf(route);
  EXPECT_EQ(info.role, SW_ROUTE_SENDS);
  ASSERT_EQ(info.source_count, 1);
  EXPECT_STREQ(info.sources[0].name, "images");
  EXPECT_EQ(info.sources[0].rows, 3);
  EXPECT_EQ(info.sent_rows, 3);
  EXPECT_EQ(info.shard_rows, 0);
}

TEST_F(NativeRouteTest, ALanguageRankBringsItsTextAndGetsTheRest) {
  const Route route = Plan(2);
  const sw_route_info info = InfoOf(route);
  EXPECT_EQ(info.role, SW_ROUTE_RECEIVES);
  ASSERT_EQ(info.source_count, 2);
  EXPECT_STREQ(info.sources[0].name, "text");
  EXPECT_EQ(info.sources[0].rows, 5);
  EXPECT_EQ(info.sources[0].is_received, 0);
  EXPECT_STREQ(info.sources[1].name, "images");
  EXPECT_EQ(info.sources[1].rows, 1);
  EXPECT_EQ(info.sources[1].is_received, 1);
  EXPECT_EQ(info.received_rows, 1);
  EXPECT_EQ(info.shard_rows, 4);
  EXPECT_EQ(info.micro_batch_size, 1);
}

TEST_F(NativeRouteTest, JsonHasTheRanksOwnTransfers) {
  char* text = nullptr;
  ASSERT_EQ(sw_route_json(Plan(2).get(), /*with_rows=*/1, &text), SW_OK);
  const auto json = nlohmann::json::parse(text);
  sw_free(text);
  EXPECT_EQ(json["transfers"].dump(),
            R"([{"destination_rank":2,"encoder":"images","returned":[0,1],)"
            R"("row_count":1,"rows":[[0,1]],"source_rank":0}])");
}

TEST_F(NativeRouteTest, WhatIsWrongIsTold) {
  sw_route* route = nullptr;
  EXPECT_EQ(sw_plan_route(job_.get(), 4, &batch_, &route), SW_NOT_FOUND);
  EXPECT_STREQ(sw_last_error_reason(), "RANK_NOT_FOUND");
  const sw_named_value count = {"images", 4};
  batch_.counts = &count;
  batch_.count_count = 1;
  EXPECT_EQ(sw_plan_route(job_.get(), 2, &batch_, &route), SW_INVALID_ARGUMENT);
  EXPECT_THAT(sw_last_error(), HasSubstr("counts.images"));
  EXPECT_EQ(route, nullptr);
}

TEST_F(NativeRouteTest, EveryNullIsAnErrorAndNotACrash) {
  sw_route* out = nullptr;
  sw_route_info info;
  char* text = nullptr;
  const sw_bridge bridge = {};
  const sw_region_bridge region_bridge = {};
  const Route route = Plan(2);
  const sw_code codes[] = {
      sw_plan_route(nullptr, 2, &batch_, &out),
      sw_plan_route(job_.get(), 2, nullptr, &out),
      sw_plan_route(job_.get(), 2, &batch_, nullptr),
      sw_route_get_info(nullptr, &info),
      sw_route_get_info(route.get(), nullptr),
      sw_route_json(nullptr, 0, &text),
      sw_route_json(route.get(), 0, nullptr),
      sw_session_bridge(nullptr, &bridge, nullptr),
      sw_session_bridge_regions(nullptr, &region_bridge, nullptr, nullptr),
  };
  for (size_t i = 0; i < std::size(codes); ++i) {
    EXPECT_EQ(codes[i], SW_INVALID_ARGUMENT) << "call " << i;
    EXPECT_STREQ(sw_last_error_reason(), "NULL_ARGUMENT");
  }
  sw_route_destroy(nullptr);
}

TEST_F(NativeRouteTest, AJobThatWasDestroyedIsRefused) {
  const sw_job* const job = job_.get();
  job_.reset();
  sw_route* route = nullptr;
  EXPECT_EQ(sw_plan_route(job, 2, &batch_, &route), SW_INVALID_ARGUMENT);
  EXPECT_STREQ(sw_last_error_reason(), "FREED_HANDLE");
  EXPECT_EQ(route, nullptr);
}

}  // namespace
