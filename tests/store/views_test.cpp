// The views are a contract with readers: README.md names their columns, and these are all of them.
#include <fstream>
#include <sstream>

#include "tests/store/store_fixture.h"

namespace statelab {
namespace {

using ViewsTest = StoreTest;

TEST_F(ViewsTest, EveryColumnOfEveryViewIsDescribedInTheReadme) {
  std::ifstream file(std::string(STATELAB_SOURCE_DIR) + "/store/README.md");
  std::stringstream readme;
  readme << file.rdbuf();
  const std::string text = readme.str();
  Database db(this->file(), Database::Access::kCreate);
  Statement columns(db,
                    "SELECT v.name, c.name FROM sqlite_master v, pragma_table_info(v.name) c "
                    "WHERE v.type = 'view'");
  int seen = 0;
  while (columns.step()) {
    const size_t begin = text.find("**`" + columns.text(0) + "`**");
    ASSERT_NE(begin, std::string::npos) << columns.text(0);
    const std::string section = text.substr(begin, text.find("\n**`v_", begin + 1) - begin);
    EXPECT_NE(section.find('`' + columns.text(1) + '`'), std::string::npos)
        << columns.text(0) << '.' << columns.text(1);
    ++seen;
  }
  EXPECT_GT(seen, 60);
}

TEST_F(ViewsTest, RunWhoseLeaseRanOutIsAbandoned) {
  RunStore store(file());
  const auto all = runs(1);
  store.add_runs(all);
  store.select_work(ids(all));
  store.claim(new_lease_owner(), origin(), 1, 3600);
  Statement status(store.database(), "SELECT status FROM v_runs");
  status.step();
  EXPECT_EQ(status.text(0), "running");
  status.reset();
  store.database().execute("UPDATE runs SET lease_until = 1");
  status.step();
  EXPECT_EQ(status.text(0), "abandoned");
}

}  // namespace
}  // namespace statelab
