#include "optim/rules/adamw.h"
#include "optim/rules/galore.h"
#include "optim/rules/muon.h"
#include "optim/rules/sgd.h"
#include "optim/rules/soap.h"
#include "optim/update_rule.h"

namespace strata {
namespace register_detail {

template <class Config>
void add(RuleRegistry& registry, const char* name,
         std::unique_ptr<UpdateRule> (*make)(const Config&)) {
  registry.add(name, [make](ConfigVisitor& v) {
    Config config;
    config.visit(v);
    return make(config);
  });
}

}  // namespace register_detail

RuleRegistry rule_registry() {
  RuleRegistry registry("optim.name");
  register_detail::add<AdamWConfig>(registry, "adamw", make_adamw);
  register_detail::add<GaloreConfig>(registry, "galore", make_galore);
  register_detail::add<MuonConfig>(registry, "muon", make_muon);
  register_detail::add<SgdConfig>(registry, "sgd", make_sgd);
  register_detail::add<SoapConfig>(registry, "soap", make_soap);
  return registry;
}

}  // namespace strata
