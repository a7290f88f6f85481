//! What is wrong with a flawed backend.

/// One way to break the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// None at all: the wrapper passes every case.
    None,

    // Registering
    /// `register` returns before anything is registered.
    RegistersLater,
    /// The first five handles see registrations, the others don't.
    LeavesHandlesOut,
    /// What is registered already is kept, whatever is registered again.
    KeepsTheFirst,
    /// Registering again is deregistering and registering.
    TakesAwayAndAddsAgain,
    /// Registering again is an update, also of equal content.
    CountsRegistrations,
    /// A server that lost its data stays empty.
    ForgetsLostData,
    /// A session that was lost is not opened again.
    ForgetsLostSessions,
    /// Of what happens in an outage, the first change of each key is kept.
    KeepsTheFirstOfAnOutage,
    /// The status calls everything registered.
    AllIsRegistered,
    /// After an outage, everything that was ever registered is registered again.
    RegistersEverythingAgain,
    /// A handle that ends takes the keys it once had from their new owners.
    TakesKeysAlong,
    /// Whoever is superseded registers again.
    FightsBack,
    /// Whoever was superseded once can't register the key again.
    GivesUpForEver,
    /// `deregister` always says that it removed something.
    AlwaysRemoved,
    /// `deregister` returns before anything is deregistered.
    DeregistersLater,
    /// `deregister` does nothing.
    NeverDeregisters,
    /// `deregister` removes what others registered.
    DeregistersForOthers,
    /// Being superseded for one key ends the owner's other registrations.
    SupersededWithAll,
    /// A refused registration ends the handle's other registrations.
    RefusedWithAll,
    /// Every other call waits a little before it starts.
    LetsCallsOvertake,

    // Watching
    /// The first view is live and empty, whatever there is.
    StartsEmpty,
    /// What happens right after subscribing is missed.
    MissesTheStart,
    /// What isn't known is shown as empty and live.
    UnknownIsEmpty,
    /// A view with a number that is a multiple of a hundred is dropped, also when it is the last.
    DropsRoundNumbers,
    /// Calls hang while many watches are there, as nobody reads them.
    WaitsForReaders,
    /// Shows the view before once more after each view.
    GoesBack,
    /// Takes a key from one owner before showing it with the next.
    GapsBetweenOwners,
    /// An outage is shown as empty.
    EmptyInAnOutage,
    /// The end of an outage starts from nothing.
    FlapsOnReturn,
    /// Empty is shown as unknown until something was there.
    EmptyIsUnknown,
    /// The last instance is kept when a service becomes empty.
    NeverGetsEmpty,
    /// A service name matches those that start with it.
    MatchesPrefixes,
    /// A service name matches in any case.
    FoldsCase,
    /// All services are those written in lower case.
    AllIsLowerCase,
    /// Every watch has a subscription of its own.
    SharesNothing,
    /// No subscription ever ends.
    KeepsSubscriptions,
    /// Only what this library wrote is shown.
    HidesForeignEntries,
    /// What can't be read ends the watches.
    GarbageEndsWatches,
    /// A crash shows in views that are stale.
    PassesLossesInAnOutage,
    /// What is deregistered in an outage is seen until its end.
    DeregistersAfterTheOutage,

    // Health
    /// `health` is deregistering and registering.
    HealthFlaps,
    /// `health` of another's key is ignored.
    IgnoresOthersHealth,
    /// Registering again sets the health back.
    HealthIsSetBack,
    /// Coming back from any trouble sets the health back.
    HealthIsLostOnReturn,
    /// Nobody ever notices a crash.
    CrashesAreNotNoticed,

    // Closing
    /// `close` tells nobody.
    ClosesSilently,
    /// Watches go on after `close`.
    WatchesOutliveClose,
    /// The second `close` is an error.
    ClosesOnce,
    /// Each handle leaves a task behind.
    LeaksTasks,
    /// `close` waits for the backend, for ever.
    ClosesOnlyWhenHeard,
    /// A dropped handle goes on.
    OutlivesBeingDropped,
    /// `register` after `close` is fine.
    RegistersAfterClose,

    // Limits and input
    /// Instance ids are folded to lower case.
    FoldsIds,
    /// Metadata values are cut at 255 bytes.
    CutsMetadata,
    /// Health notes are trimmed.
    TrimsNotes,
    /// A view has 256 instances at most.
    CountsInAByte,
    /// Unknown options are ignored.
    IgnoresUnknownOptions,
    /// Values are not looked at.
    AcceptsAnyValue,
    /// Secrets stand in `Debug`.
    ShowsSecrets,
    /// A task panics when it reads garbage.
    PanicsOnGarbage,
    /// Reading garbage never ends.
    HangsOnGarbage,
}
