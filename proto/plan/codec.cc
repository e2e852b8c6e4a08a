#include "proto/plan/codec.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/unknown_field_set.h"
#include "proto/plan/clique_name.h"
#include "proto/plan/group.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"

namespace shardwright {
namespace {

absl::Status InvalidPlan(const std::string& message) {
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_PLAN", message);
}

Role RoleFromProto(v1::Role role) {
  switch (role) {
    case v1::ENCODER:
      return Role::kEncoder;
    case v1::LANGUAGE:
      return Role::kLanguage;
    default:
      return Role::kUnspecified;
  }
}

void CheckUnknownFields(const google::protobuf::Message& message,
                        const std::string& path, Problems& problems) {
  const google::protobuf::Reflection& reflection = *message.GetReflection();
  const google::protobuf::UnknownFieldSet& unknown =
      reflection.GetUnknownFields(message);
  for (int i = 0; i < unknown.field_count(); ++i) {
    if (problems.size() >= kProblemsMax) return;
    AddProblem(problems, path,
               absl::StrCat("field number ", unknown.field(i).number(),
                            " is unknown to this version"),
               "the sender is newer");
  }
  std::vector<const google::protobuf::FieldDescriptor*> fields;
  reflection.ListFields(message, &fields);
  for (const google::protobuf::FieldDescriptor* field : fields) {
    if (field->message_type() == nullptr) continue;
    const std::string inner =
        absl::StrCat(path, path.empty() ? "" : ".", field->name());
    if (!field->is_repeated()) {
      CheckUnknownFields(reflection.GetMessage(message, field), inner,
                         problems);
      continue;
    }
    for (int i = 0; i < reflection.FieldSize(message, field); ++i) {
      CheckUnknownFields(reflection.GetRepeatedMessage(message, field, i),
                         absl::StrCat(inner, "[", i, "]"), problems);
    }
  }
}

void AddRuns(const std::vector<PositionRun>& runs,
             google::protobuf::RepeatedPtrField<v1::PositionRun>& messages) {
  messages.Reserve(static_cast<int>(runs.size()));
  for (const PositionRun& run : runs) {
    v1::PositionRun& message = *messages.Add();
    message.set_position(run.position);
    message.set_count(run.count);
  }
}

// Runs inside [0, seq_length), for `rows` rows of B samples each.
absl::StatusOr<std::vector<PositionRun>> RunsFromProto(
    const google::protobuf::RepeatedPtrField<v1::PositionRun>& messages,
    absl::string_view field, int64_t seq_length, int64_t micro_batch_size,
    int64_t rows) {
  std::vector<PositionRun> runs;
  runs.reserve(messages.size());
  int64_t total = 0;
  for (const v1::PositionRun& message : messages) {
    if (message.position() < 0 || message.count() < 1 ||
        message.position() >= seq_length ||
        message.count() > seq_length - message.position()) {
      return InvalidPlan(absl::StrCat(field, ": [", message.position(), ", +",
                                      message.count(), ") is not inside [0, ",
                                      seq_length, ")"));
    }
    runs.push_back({message.position(), message.count()});
    total += message.count();
    if (total > seq_length) break;
  }
  if (total > seq_length || total * micro_batch_size != rows) {
    return InvalidPlan(absl::StrCat(field, " have ", total,
                                    " positions for B=", micro_batch_size,
                                    ", and the table ", rows, " rows"));
  }
  return runs;
}

v1::Parallelism ParallelismOf(const Module& module) {
  v1::Parallelism message;
  const Grid& expert = module.expert_grid();
  message.set_tp(module.tp());
  message.set_gtp_remat(module.gtp_remat());
  message.set_cp(module.cp());
  message.set_pp(module.pp());
  message.set_ep(expert.size(Dim::kEp));
  message.set_expert_tp(expert.size(Dim::kExpertTp));
  message.set_expert_gtp_remat(expert.size(Dim::kExpertGtpRemat));
  message.set_sequence_parallel(module.sequence_parallel());
  message.set_order(module.spec().order);
  return message;
}

}  // namespace

LayoutSpec LayoutSpecFromProto(const v1::Layout& message) {
  LayoutSpec spec;
  spec.name = message.name();
  spec.world_size = message.world_size();
  for (const v1::Module& from : message.modules()) {
    ModuleSpec& to = spec.modules.emplace_back();
    to.name = from.name();
    to.role = RoleFromProto(from.role());
    if (from.has_first_rank()) to.first_rank = from.first_rank();
    if (from.has_rank_count()) to.rank_count = from.rank_count();
    to.ranks.assign(from.ranks().begin(), from.ranks().end());
    const v1::Parallelism& sizes = from.parallelism();
    if (sizes.has_tp()) to.tp = sizes.tp();
    if (sizes.has_gtp_remat()) to.gtp_remat = sizes.gtp_remat();
    if (sizes.has_cp()) to.cp = sizes.cp();
    if (sizes.has_pp()) to.pp = sizes.pp();
    if (sizes.has_ep()) to.ep = sizes.ep();
    if (sizes.has_expert_tp()) to.expert_tp = sizes.expert_tp();
    if (sizes.has_expert_gtp_remat()) {
      to.expert_gtp_remat = sizes.expert_gtp_remat();
    }
    to.sequence_parallel = sizes.sequence_parallel();
    to.order = sizes.order();
  }
  for (const v1::Edge& edge : message.edges()) {
    spec.edges.push_back({edge.from(), edge.to()});
  }
  return spec;
}

BatchShape BatchShapeFromProto(const v1::BatchShape& message) {
  BatchShape shape;
  shape.seq_length = message.seq_length();
  shape.micro_batch_size = message.micro_batch_size();
  shape.cu_seqlens_padded.assign(message.cu_seqlens_padded().begin(),
                                 message.cu_seqlens_padded().end());
  shape.cu_seqlens.assign(message.cu_seqlens().begin(),
                          message.cu_seqlens().end());
  return shape;
}

v1::BatchShape ToProto(const BatchShape& shape) {
  v1::BatchShape message;
  message.set_seq_length(shape.seq_length);
  message.set_micro_batch_size(shape.micro_batch_size);
  message.mutable_cu_seqlens_padded()->Add(shape.cu_seqlens_padded.begin(),
                                           shape.cu_seqlens_padded.end());
  message.mutable_cu_seqlens()->Add(shape.cu_seqlens.begin(),
                                    shape.cu_seqlens.end());
  return message;
}

Batch BatchFromProto(const v1::Batch& message) {
  Batch batch;
  batch.micro_batch_size = message.micro_batch_size();
  batch.seq_length = message.seq_length();
  batch.special_token_ids.insert(message.special_token_ids().begin(),
                                 message.special_token_ids().end());
  batch.counts.insert(message.counts().begin(), message.counts().end());
  batch.samples.reserve(message.samples_size());
  for (const v1::Sample& sample : message.samples()) {
    batch.samples.emplace_back(sample.input_ids().begin(),
                               sample.input_ids().end());
  }
  for (const v1::CuSeqlens& cu : message.cu_seqlens_padded()) {
    batch.cu_seqlens_padded.emplace_back(cu.offsets().begin(),
                                         cu.offsets().end());
  }
  for (const auto& [name, counts] : message.encoder_rows()) {
    batch.encoder_rows[name].assign(counts.rows().begin(), counts.rows().end());
  }
  return batch;
}

Problems CheckUnknownFields(const google::protobuf::Message& message) {
  Problems problems;
  CheckUnknownFields(message, "", problems);
  return problems;
}

absl::StatusOr<Layout> LayoutFromProto(const v1::Layout& message) {
  Problems problems = CheckUnknownFields(message);
  LayoutSpec spec = LayoutSpecFromProto(message);
  if (problems.empty()) return Layout::Create(std::move(spec));
  const Problems broken = Layout::Check(spec);
  problems.insert(problems.end(), broken.begin(), broken.end());
  return ProblemsToStatus("INVALID_LAYOUT", problems);
}

Problems CheckLayoutDocument(const Document& document,
                             const v1::Layout& message) {
  Problems problems = document.problems;
  // A problem with no field is one of the whole file.
  if (std::any_of(problems.begin(), problems.end(),
                  [](const Problem& p) { return p.field.empty(); })) {
    return problems;
  }
  const Problems more = Layout::Check(LayoutSpecFromProto(message));
  problems.insert(problems.end(), more.begin(), more.end());
  return problems;
}

v1::Coordinates ToProto(const Coordinates& coordinates) {
  v1::Coordinates message;
  message.set_tp(coordinates.tp);
  message.set_gtp_remat(coordinates.gtp_remat);
  message.set_cp(coordinates.cp);
  message.set_dp(coordinates.dp);
  message.set_pp(coordinates.pp);
  message.set_lane(coordinates.lane);
  return message;
}

Coordinates CoordinatesFromProto(const v1::Coordinates& message) {
  Coordinates coordinates;
  coordinates.tp = message.tp();
  coordinates.gtp_remat = message.gtp_remat();
  coordinates.cp = message.cp();
  coordinates.dp = message.dp();
  coordinates.pp = message.pp();
  coordinates.lane = message.lane();
  return coordinates;
}

v1::CopyTable ToProto(const CopyTable& table) {
  v1::CopyTable message;
  ToProto(table, message);
  return message;
}

void ToProto(const CopyTable& table, v1::CopyTable& message) {
  message.set_destination_rows(table.destination_rows());
  message.mutable_source_rows()->Add(table.source_rows().begin(),
                                     table.source_rows().end());
  message.mutable_entries()->Reserve(static_cast<int>(table.entries().size()));
  for (const RowCopy& from : table.entries()) {
    v1::RowCopy& to = *message.add_entries();
    to.set_source(from.source);
    to.set_source_row(from.source_row);
    to.set_destination_row(from.destination_row);
    to.set_destination_stride(from.destination_stride);
    to.set_row_count(from.row_count);
  }
}

absl::StatusOr<CopyTable> CopyTableFromProto(const v1::CopyTable& message) {
  std::vector<RowCopy> entries;
  entries.reserve(message.entries_size());
  for (const v1::RowCopy& from : message.entries()) {
    if (from.source() == RowCopy::kKeep) {
      return Error(absl::StatusCode::kInvalidArgument, "INVALID_TABLE",
                   absl::StrCat("the entry at destination_row ",
                                from.destination_row(), " has source ",
                                from.source(), ", which no message may have"));
    }
    entries.push_back({from.source(), from.source_row(), from.destination_row(),
                       from.destination_stride(), from.row_count()});
  }
  return CopyTable::Create(
      std::move(entries),
      {message.source_rows().begin(), message.source_rows().end()},
      message.destination_rows());
}

v1::ShardPlan ToProto(const ShardPlan& plan) {
  v1::ShardPlan message;
  ToProto(plan, message);
  return message;
}

void ToProto(const ShardPlan& plan, v1::ShardPlan& message) {
  message.set_digest(plan.digest);
  message.set_generation(plan.generation);
  message.set_rank(plan.rank);
  *message.mutable_coordinates() = ToProto(plan.coordinates);
  message.set_seq_length(plan.seq_length);
  message.set_micro_batch_size(plan.micro_batch_size);
  message.mutable_sources()->Add(plan.sources.begin(), plan.sources.end());
  if (plan.embeddings.has_value()) {
    ToProto(*plan.embeddings, *message.mutable_embeddings());
  }
  ToProto(plan.labels, *message.mutable_labels());
  AddRuns(plan.embedding_runs, *message.mutable_embedding_runs());
  AddRuns(plan.label_runs, *message.mutable_label_runs());
  message.mutable_load()->set_token_count(plan.load.token_count);
  message.mutable_load()->set_padding_token_count(
      plan.load.padding_token_count);
  message.mutable_load()->set_causal_work(plan.load.causal_work);
}

absl::StatusOr<ShardPlan> ShardPlanFromProto(const v1::ShardPlan& message) {
  ShardPlan plan;
  plan.digest = message.digest();
  plan.generation = message.generation();
  plan.rank = message.rank();
  plan.coordinates = CoordinatesFromProto(message.coordinates());
  plan.seq_length = message.seq_length();
  plan.micro_batch_size = message.micro_batch_size();
  plan.sources.assign(message.sources().begin(), message.sources().end());
  plan.load = {message.load().token_count(),
               message.load().padding_token_count(),
               message.load().causal_work()};
  if (plan.rank < 0 || plan.seq_length < 1 || plan.seq_length > kSeqLengthMax ||
      plan.micro_batch_size < 1 || plan.micro_batch_size > kMicroBatchSizeMax) {
    return InvalidPlan(absl::StrCat(
        "rank=", plan.rank, ", seq_length=", plan.seq_length,
        ", micro_batch_size=", plan.micro_batch_size, ": out of range"));
  }
  int64_t embedding_rows = 0;
  if (message.has_embeddings()) {
    ASSIGN_OR_RETURN(plan.embeddings, CopyTableFromProto(message.embeddings()));
    embedding_rows = plan.embeddings->destination_rows();
    if (plan.embeddings->source_rows().size() != plan.sources.size()) {
      return InvalidPlan(absl::StrCat(
          "there are ", plan.sources.size(), " names for the ",
          plan.embeddings->source_rows().size(), " sources of the embeddings"));
    }
  }
  ASSIGN_OR_RETURN(plan.labels, CopyTableFromProto(message.labels()));
  ASSIGN_OR_RETURN(
      plan.embedding_runs,
      RunsFromProto(message.embedding_runs(), "embedding_runs", plan.seq_length,
                    plan.micro_batch_size, embedding_rows));
  ASSIGN_OR_RETURN(
      plan.label_runs,
      RunsFromProto(message.label_runs(), "label_runs", plan.seq_length,
                    plan.micro_batch_size, plan.labels.destination_rows()));
  return plan;
}

absl::StatusOr<v1::RankExplanation> ExplainRank(const Layout& layout, Rank rank,
                                                int64_t generation) {
  ASSIGN_OR_RETURN(const Placement at, layout.Find(rank));
  const Module& module = *at.module;
  v1::RankExplanation message;
  message.set_job(layout.name());
  message.set_rank(rank);
  message.set_generation(generation);
  message.set_module(module.name());
  message.set_role(module.role() == Role::kLanguage ? v1::LANGUAGE
                                                    : v1::ENCODER);
  *message.mutable_coordinates() = ToProto(module.CoordinatesAt(at.index));
  *message.mutable_parallelism() = ParallelismOf(module);
  message.set_dp_size(module.dp());
  for (const auto& [group, position] : GroupsOf(layout, at)) {
    v1::GroupMembership& membership = *message.add_groups();
    if (group.module != &module) membership.set_module(group.module->name());
    membership.set_kind(std::string(group.kind->name));
    membership.set_index(group.index);
    membership.set_position(position);
    for (const Strided& from : StridedRanksOf(layout, group)) {
      v1::StridedRanks& to = *membership.add_members();
      to.set_first(from.first);
      for (const Strided::Dimension& dimension : from.dimensions) {
        v1::StridedRanks::Dimension& added = *to.add_dimensions();
        added.set_count(dimension.count);
        added.set_stride(dimension.stride);
      }
    }
  }
  return message;
}

std::string NameOf(const v1::RankExplanation& rank,
                   const v1::GroupMembership& group) {
  return FormatCliqueName(
      {group.module().empty() ? rank.module() : group.module(), group.kind(),
       group.index()});
}

std::vector<Rank> RanksOf(const v1::GroupMembership& group) {
  std::vector<Rank> ranks;
  for (const v1::StridedRanks& from : group.members()) {
    Strided members;
    members.first = from.first();
    int64_t size = 1;
    for (const v1::StridedRanks::Dimension& dimension : from.dimensions()) {
      if (dimension.count() < 1 || dimension.count() > kWorldSizeMax ||
          dimension.stride() < -kWorldSizeMax ||
          dimension.stride() > kWorldSizeMax) {
        return {};
      }
      size = std::min(size * dimension.count(), kWorldSizeMax + 1);
      members.dimensions.push_back({dimension.count(), dimension.stride()});
    }
    if (members.first < 0 || members.first >= kWorldSizeMax ||
        size > kWorldSizeMax - static_cast<int64_t>(ranks.size())) {
      return {};
    }
    members.AppendTo(ranks);
  }
  return ranks;
}

}  // namespace shardwright
