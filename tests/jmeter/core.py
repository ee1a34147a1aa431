"""What the plans may be made of: elements that every Apache JMeter 5.6 has by itself, without a plug-in."""

CORE = frozenset({
    "Arguments", "ArgumentsPanel", "AssertionGui", "ConfigTestElement", "ConstantTimer", "ConstantTimerGui",
    "GenericController", "HTTPArgumentsPanel", "HTTPSamplerProxy", "HeaderManager", "HeaderPanel", "HttpDefaultsGui",
    "HttpTestSampleGui", "IfController", "IfControllerPanel", "JSONPathAssertion", "JSONPathAssertionGui",
    "JSONPostProcessor", "JSONPostProcessorGui", "JSR223Assertion", "JSR223PostProcessor", "JSR223PreProcessor",
    "JSR223Sampler", "LogicControllerGui", "LoopControlPanel", "LoopController", "OnceOnlyController",
    "OnceOnlyControllerGui", "RegexExtractor", "RegexExtractorGui", "ResponseAssertion", "ResultCollector",
    "SetupThreadGroup", "SetupThreadGroupGui", "StatGraphVisualizer", "StatVisualizer", "TestBeanGUI", "TestPlan",
    "TestPlanGui", "ThreadGroup", "ThreadGroupGui", "TransactionController", "TransactionControllerGui",
    "UniformRandomTimer", "UniformRandomTimerGui", "ViewResultsFullVisualizer", "WhileController", "WhileControllerGui",
})  # fmt: skip
