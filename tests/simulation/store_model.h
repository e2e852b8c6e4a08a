// What the store holds, read by the documented format and not by the core's
// code; and the rules of what may be written into it:
//   1. A generation grows with its layout and never otherwise.
//   2. Terms and revisions grow.
//   3. A rank goes to another process only when the last one is not live, and
//      never back to one that was replaced.
//   4. A loss has a revision of its own.

#ifndef TESTS_SIMULATION_STORE_MODEL_H_
#define TESTS_SIMULATION_STORE_MODEL_H_

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "coordinator/core/member_key.h"
#include "coordinator/core/stored.pb.h"
#include "coordinator/storage/state_store.h"
#include "proto/plan/layout.h"
#include "tests/simulation/step.h"

namespace shardwright {
namespace simulation {

class StoreModel {
 public:
  struct Job {
    int64_t generation = 0;
    int64_t revision = 0;
    std::shared_ptr<const Layout> layout;
  };

  explicit StoreModel(Violations& violations) : violations_(violations) {}

  void Commit(const StateStore::Entries& entries);

  // Forgets what the step before has written.
  void BeginStep();
  int64_t commit_count() const { return commit_count_; }  // In the step.
  const std::set<std::string>& new_layouts() const { return new_layouts_; }
  const std::vector<MemberKey>& lost() const { return lost_; }  // Or left.
  bool WasLost(const MemberKey& key) const;

  int64_t term() const { return term_; }
  int64_t revision() const { return revision_; }  // Of the last loss.
  int64_t layout_revision() const { return layout_revision_; }
  const std::map<std::string, Job>& jobs() const { return jobs_; }
  const Job* FindJob(const std::string& name) const;
  const std::map<MemberKey, stored::Member>& members() const {
    return members_;
  }
  const stored::Member* FindMember(const MemberKey& key) const;
  bool IsLive(const MemberKey& key) const;
  bool IsLive(const MemberKey& key, uint64_t incarnation) const;
  // Of a live process that works with the layout in force.
  bool IsCurrent(const v1::Caller& caller) const;

  // Whether another process has had the rank since.
  bool WasReplaced(const MemberKey& key, uint64_t incarnation) const;

 private:
  void CommitLayout(const std::string& value);
  void CommitMember(const std::string& key, const std::string& value,
                    int64_t revision_before);

  Violations& violations_;
  int64_t term_ = 0;
  int64_t revision_ = 0;
  int64_t layout_revision_ = 0;
  std::map<std::string, Job> jobs_;
  std::map<MemberKey, stored::Member> members_;
  std::map<MemberKey, std::set<uint64_t>> replaced_;

  int64_t commit_count_ = 0;
  std::set<std::string> new_layouts_;
  std::vector<MemberKey> lost_;
};

}  // namespace simulation
}  // namespace shardwright

#endif  // TESTS_SIMULATION_STORE_MODEL_H_
