"""The tasks that `fab --list` shows."""

from invoke.collection import Collection

from tasks import deploy, dev, experiment, faults, hosts, lab, processes, results, soak, sweeps

namespace = Collection(
    hosts.use,
    hosts.setup,
    hosts.trust,
    hosts.check,
    hosts.reboot,
    deploy.deploy,
    deploy.rollback,
    deploy.releases,
    processes.start_servers,
    processes.start_clients,
    processes.stop,
    processes.status,
    processes.tail,
    results.collect,
    results.assemble,
    results.compare,
    results.report,
    results.clean,
    experiment.run,
    sweeps.sweep,
    soak.soak,
    experiment.reproduce,
    experiment.demo,
    faults.heal,
    fault=Collection(faults.kill, faults.pause, faults.power, faults.cut, faults.slow, faults.loss),
    lab=Collection(lab.up, lab.status, lab.down),
    dev=Collection(dev.check, dev.fix, dev.test, dev.simulate),
)
