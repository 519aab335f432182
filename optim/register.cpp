#include "optim/rules/adamw.h"
#include "optim/rules/galore.h"
#include "optim/rules/muon.h"
#include "optim/rules/sgd.h"
#include "optim/rules/soap.h"
#include "optim/update_rule.h"

namespace strata {

RuleRegistry rule_registry() {
  RuleRegistry registry("optim.name");
  registry.add("adamw", [](ConfigVisitor& v) {
    AdamWConfig config;
    config.visit(v);
    return make_adamw(config);
  });
  registry.add("muon", [](ConfigVisitor& v) {
    MuonConfig config;
    config.visit(v);
    return make_muon(config);
  });
  registry.add("sgd", [](ConfigVisitor& v) {
    SgdConfig config;
    config.visit(v);
    return make_sgd(config);
  });
  registry.add("soap", [](ConfigVisitor& v) {
    SoapConfig config;
    config.visit(v);
    return make_soap(config);
  });
  registry.add("galore", [](ConfigVisitor& v) {
    GaloreConfig config;
    config.visit(v);
    return make_galore(config);
  });
  return registry;
}

}  // namespace strata
